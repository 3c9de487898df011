"""What holds whatever the protocol: limits, content types, deadlines, and what every answer tells."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ServingError, TrackingError
from common.model_settings import ModelSettings
from serve.batching import Answer, ServedVersion, Text
from serve.endpoints import Deployment
from serve.exchange import MAX_BODY_BYTES, MAX_TEXT_CHARS
from tests.fake_backend import REPLICAS_ANSWER, SPEC, FakeBackend, ask, gateway, run, settle


@dataclass(frozen=True)
class Spoken:
    """How a protocol sends texts, what it answers to what it cannot read, and its error's keys."""

    path: str
    unreadable: int
    failed: int
    error_keys: tuple[str, ...]

    def body(self, texts: list[str]) -> dict[str, Any]:
        match self.path.rpartition("/")[2]:
            case "classify":
                return {"texts": texts}
            case "predict":
                return {"inputs": [[text] for text in texts]}
            case "infer":
                return {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}]}
            case _:
                return {"inputs": texts}


PROTOCOLS = [
    Spoken("/news/classify", 422, 500, ("error",)),
    Spoken("/news", 422, 500, ("error",)),
    Spoken("/news/predict", 422, 424, ("error", "error_type")),
    Spoken("/news/v2/models/news/infer", 400, 500, ("error",)),
    Spoken("/news/invocations", 400, 500, ("error_code", "message")),
]
in_every_protocol = pytest.mark.parametrize("spoken", PROTOCOLS, ids=lambda spoken: spoken.path)


def problem(response: httpx.Response, spoken: Spoken) -> str:
    """The words of a refusal in the protocol's shape."""
    assert tuple(response.json()) == spoken.error_keys
    assert response.headers["content-type"] == "application/json"
    return str(response.json()["message" if "message" in spoken.error_keys else "error"])


@in_every_protocol
def test_texts_are_answered_with_the_version_that_did_so(spoken: Spoken) -> None:
    backend = FakeBackend(version=7)

    response = ask("POST", spoken.path, backend, json=spoken.body(["a", "ü\0"]))

    assert response.status_code == 200
    assert response.headers["X-Model-Version"] == "7"
    assert backend.batches == [("news", 7, ["a", "ü\0"])]


@in_every_protocol
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"a"', b"\xff", b'{"inputs": "\\ud800"}', b"[" * 9999])
def test_what_is_not_a_json_object_reaches_no_replica(spoken: Spoken, body: bytes) -> None:
    backend = FakeBackend()

    response = ask("POST", spoken.path, backend, content=body)

    assert response.status_code == spoken.unreadable
    assert problem(response, spoken)
    assert response.headers["X-Model-Version"] == "1"
    assert backend.batches == []


@in_every_protocol
@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"content-type": "text/plain"}, "'text/plain'"),
        ({"content-type": "multipart/form-data; boundary=x"}, "'multipart/form-data'"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "'gzip'"),
    ],
)
def test_another_content_type_is_415(spoken: Spoken, headers: dict[str, str], named: str) -> None:
    response = ask("POST", spoken.path, content=b"{}", headers=headers)

    assert response.status_code == 415
    assert named in problem(response, spoken)


@in_every_protocol
@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_a_content_types_case_and_parameters_do_not_matter(spoken: Spoken, content_type: str) -> None:
    assert ask("POST", spoken.path, json=spoken.body(["a"]), headers={"content-type": content_type}).status_code == 200


@in_every_protocol
def test_what_is_too_large_is_413_and_told_by_its_limit(spoken: Spoken) -> None:
    backend = FakeBackend()

    for texts, limit in (
        (["a" * MAX_BODY_BYTES], f"{MAX_BODY_BYTES} bytes"),
        (["a"] * 9, "9 texts are more than the 8"),
        (
            ["a", "b" * (MAX_TEXT_CHARS + 1)],
            f"text 1 has {MAX_TEXT_CHARS + 1} characters and may have {MAX_TEXT_CHARS}",
        ),
    ):
        response = ask("POST", spoken.path, backend, json=spoken.body(texts))
        assert response.status_code == 413
        assert limit in problem(response, spoken)
    assert backend.batches == []


@in_every_protocol
def test_the_largest_text_is_answered(spoken: Spoken) -> None:
    assert ask("POST", spoken.path, json=spoken.body(["b" * MAX_TEXT_CHARS])).status_code == 200


@in_every_protocol
def test_no_text_is_refused(spoken: Spoken) -> None:
    assert ask("POST", spoken.path, json=spoken.body([])).status_code == spoken.unreadable


@in_every_protocol
def test_a_full_queue_is_429_with_a_time_to_try_again(spoken: Spoken) -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        backend.is_open.clear()
        async with gateway(backend) as client:
            accepted = asyncio.create_task(client.post(spoken.path, json=spoken.body(["a"] * 8)))
            await settle()
            refused = await client.post(spoken.path, json=spoken.body(["b"]))
            backend.is_open.set()

            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
            assert "8 texts wait and 8 may" in problem(refused, spoken)
            assert (await accepted).status_code == 200

    run(scenario)


@in_every_protocol
def test_a_wake_that_takes_longer_than_the_client_waits_is_504(spoken: Spoken) -> None:
    backend = FakeBackend()
    backend.is_open.clear()

    response = ask("POST", spoken.path, backend, json=spoken.body(["a"]), headers={"X-Scale-Up-Timeout": "0.01"})

    assert response.status_code == 504
    assert "no answer within 0.01 s" in problem(response, spoken)


def test_the_wait_for_a_wake_does_not_limit_an_endpoint_that_is_awake() -> None:
    async def scenario() -> None:
        backend = FakeBackend(deployed={"news": Deployment(SPEC, num_running=1, num_starting=0)})
        backend.is_open.clear()
        async with gateway(backend) as client:
            headers = {"X-Scale-Up-Timeout": "0"}
            request = asyncio.create_task(client.post("/news", json={"inputs": "a"}, headers=headers))
            await settle()
            backend.is_open.set()
            assert (await request).status_code == 200

    run(scenario)


@pytest.mark.parametrize("given", ["soon", "-1", "nan", ""])
def test_a_wait_that_is_no_number_of_seconds_is_named(given: str) -> None:
    response = ask("POST", "/news", json={"inputs": "a"}, headers={"X-Scale-Up-Timeout": given})

    assert response.status_code == 422
    assert f"X-Scale-Up-Timeout: {given!r}" in response.json()["error"]


@in_every_protocol
def test_an_endpoint_that_is_not_there_is_404(spoken: Spoken) -> None:
    response = ask("POST", spoken.path.replace("news", "olds", 1), json=spoken.body(["a"]))

    assert response.status_code == 404
    assert "there is no endpoint 'olds'; there are: news" in problem(response, spoken)
    assert "X-Model-Version" not in response.headers


@in_every_protocol
def test_a_registry_that_is_away_is_503(spoken: Spoken) -> None:
    backend = FakeBackend(registry_error=TrackingError("http://away does not answer"))

    response = ask("POST", spoken.path, backend, json=spoken.body(["a"]))

    assert response.status_code == 503
    assert "http://away does not answer" in problem(response, spoken)


@in_every_protocol
@pytest.mark.parametrize(
    ("error", "said"), [(ServingError("no model.onnx"), "no model.onnx"), (KeyError("/secret"), "its log on the head")]
)
def test_a_model_that_fails_is_told_and_secrets_are_not(spoken: Spoken, error: Exception, said: str) -> None:
    response = ask("POST", spoken.path, FakeBackend(replica_error=error), json=spoken.body(["a"]))

    assert response.status_code == spoken.failed
    assert said in problem(response, spoken)
    assert "secret" not in response.text


@dataclass
class Doubtful(FakeBackend):
    """Its model gives no number for the text `?`."""

    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        await super().classify(name, served, texts)
        return [{**REPLICAS_ANSWER, "score": float("nan")} if text == "?" else REPLICAS_ANSWER for text in texts]


@in_every_protocol
def test_a_text_that_the_model_has_no_number_for_fails_its_own_request_only(spoken: Spoken) -> None:
    async def scenario() -> None:
        backend = Doubtful()
        backend.is_open.clear()
        async with gateway(backend) as client:
            requests = [
                asyncio.create_task(client.post(spoken.path, json=spoken.body([text]))) for text in ("a", "b", "?", "c")
            ]
            await settle()
            backend.is_open.set()
            responses = await asyncio.gather(*requests)

        assert ["?", "c"] in [texts for _, _, texts in backend.batches]
        assert [response.status_code for response in responses] == [200, 200, spoken.failed, 200]
        assert "text 0 is not a number" in problem(responses[2], spoken)

    run(scenario)


PARAMETERS = ["raw_scores", "truncate", "top_k", "function_to_apply", "binary_data", "binary_data_output"]
FRAMES = ["instances", "dataframe_split", "dataframe_records", "columns", "index", "params"]
TENSORS = ["id", "name", "shape", "datatype", "data", "outputs", "binary_data_size"]
KEYS = st.sampled_from([*PARAMETERS, *FRAMES, *TENSORS, "inputs", "parameters", "texts", "text", "sentence"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["text", "label", "BYTES", "", "a"])
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@given(st.data(), st.sampled_from(PROTOCOLS))
def test_whatever_a_body_holds_the_answer_is_foreseen(data: Any, spoken: Spoken) -> None:
    body = spoken.body(["a"]) | data.draw(st.dictionaries(KEYS, ANYTHING, max_size=3))
    if isinstance(body.get("inputs"), list):  # Open Inference's tensor, with other values in it
        body["inputs"] = [
            item | data.draw(st.dictionaries(KEYS, ANYTHING, max_size=2)) if isinstance(item, dict) else item
            for item in body["inputs"]
        ]

    response = ask("POST", spoken.path, content=json.dumps(body))

    assert response.status_code in {200, 400, 413, 422}
    if response.status_code != 200:
        assert problem(response, spoken)


@dataclass
class Hanging(FakeBackend):
    """The store that holds its model's files does not answer."""

    async def settings(self, served: ServedVersion) -> ModelSettings:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


@pytest.mark.parametrize("path", ["/news/info", "/news/v2/models/news", "/news/v2/models/news/config"])
def test_a_question_about_a_model_whose_files_hang_ends(path: str) -> None:
    async def scenario() -> None:
        async with gateway(Hanging(), deadline_s=0.01) as client:
            await settle()
            response = await client.get(path)

        assert response.status_code == 504
        assert "not read within 0.01 s" in response.json()["error"]

    run(scenario)


def test_openapi_describes_every_route_and_what_each_refuses() -> None:
    document = ask("GET", "/openapi.json").json()

    for spoken in PROTOCOLS:
        path = "/".join("{name}" if part == "news" else part for part in spoken.path.split("/", 2))
        operation = document["paths"][path.replace("models/news", "models/{model}")]["post"]
        assert {"200", "404", "413", "415", "429", "503", "504", str(spoken.unreadable)} <= set(operation["responses"])
        assert operation["requestBody"]["content"]["application/json"]["schema"]["examples"]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = {parameter["name"] for parameter in operation.get("parameters", [])}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
    assert len({o["operationId"] for m in document["paths"].values() for o in m.values()}) == len(
        [o for m in document["paths"].values() for o in m.values()]
    )


def test_every_example_of_openapi_is_answered() -> None:
    document = ask("GET", "/openapi.json").json()
    seen = 0
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        where = path.format(name="news", model="news", version="1", id="0")
        for body in content.get("application/json", {}).get("schema", {}).get("examples", []):
            assert ask("POST", where, json=body).is_success, (path, body)
            seen += 1
        for body in content.get("text/csv", {}).get("schema", {}).get("examples", []):
            assert ask("POST", where, content=body, headers={"content-type": "text/csv"}).status_code == 200
            seen += 1
    assert seen > 10
