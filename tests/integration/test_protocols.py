"""Each protocol, spoken by its own client over HTTP with the gateway and a real model behind it; without Ray."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
import requests
import tritonclient.http
import uvicorn
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from mlflow.deployments import PredictionsResponse
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from mlflow.utils.proto_json_utils import dump_input_data
from tritonclient.utils import InferenceServerException

from common.model_settings import ModelSettings
from serve.batching import Answer, ServedVersion, Text
from serve.endpoints import Deployment, EndpointSpec
from serve.engine import Model
from serve.gateway import create_app
from tests.fake_backend import SPEC
from tests.tiny_model import build_engine

TEXTS = ["good good", "bad", "ä\0"]
LABELS = ["good", "bad", "bad"]  # of the last the model knows nothing
SCORE = 1 / (1 + np.exp(-4.0))
"""Of the label `bad` for the text "bad": the logits are 2 and -2."""


class TinyBackend:
    """One endpoint, whose replica is this process."""

    def __init__(self, folder: Path) -> None:
        self._served = ServedVersion(3, str(build_engine(folder)))
        self._model = Model()

    async def deployments(self) -> dict[str, Deployment]:
        return {"news": Deployment(SPEC, num_running=1, num_starting=0)}

    async def resolve(self, spec: EndpointSpec) -> ServedVersion:
        return self._served

    async def card(self, spec: EndpointSpec, served: ServedVersion) -> str | None:
        return None

    async def settings(self, served: ServedVersion) -> ModelSettings:
        return ModelSettings.read(served.uri)

    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        return await self._model.classify(served.uri, served.version, texts)


class Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        self.listens.set()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of a gateway."""
    app = create_app(TinyBackend(tmp_path_factory.mktemp("model")))
    server = Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.listens.wait(30)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NO_PROXY", "127.0.0.1")  # the clients of others read the environment
            yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class TestHuggingFace:
    @pytest.fixture
    def client(self, address: str, monkeypatch: pytest.MonkeyPatch) -> InferenceClient:
        # Offline mode, wherever it was left on, would keep the client from every address, our own too.
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        return InferenceClient(model=f"http://{address}/news", token="ts_key")

    def test_a_text_is_classified(self, client: InferenceClient) -> None:
        first, second = client.text_classification("bad")

        assert (first.label, second.label) == ("bad", "good")
        assert first.score == pytest.approx(SCORE)

    def test_its_parameters_are_heard(self, client: InferenceClient) -> None:
        (best,) = client.text_classification("bad", top_k=1, function_to_apply="none")

        assert (best.label, best.score) == ("bad", 2.0)

    def test_a_refusal_is_the_error_that_it_knows(self, client: InferenceClient) -> None:
        with pytest.raises(HfHubHTTPError, match="top_k is 0") as refused:
            client.text_classification("bad", top_k=0)
        assert refused.value.response.status_code == 422


class TestTextEmbeddingsInference:
    """It has no client of its own: its users post JSON."""

    def test_texts_pairs_and_raw_scores(self, address: str) -> None:
        url = f"http://{address}/news/predict"

        assert [found["label"] for found in requests.post(url, json={"inputs": "bad"}).json()] == ["bad", "good"]
        batch = requests.post(url, json={"inputs": [["bad"], ["good", "good"]], "raw_scores": True}).json()
        assert batch[0] == [{"score": 2.0, "label": "bad"}, {"score": -2.0, "label": "good"}]
        assert batch[1] == [{"score": 4.0, "label": "good"}, {"score": -4.0, "label": "bad"}]

    def test_a_text_that_is_too_long_for_the_model(self, address: str) -> None:
        refused = requests.post(f"http://{address}/news/predict", json={"inputs": "bad " * 65, "truncate": False})

        assert (refused.status_code, refused.json()["error_type"]) == (422, "Validation")

    def test_info(self, address: str) -> None:
        info = requests.get(f"http://{address}/news/info").json()

        assert (info["max_input_length"], info["model_dtype"], info["model_sha"]) == (64, "fp32", "3")


class TestOpenInference:
    @pytest.fixture
    def client(self, address: str) -> Iterator[tritonclient.http.InferenceServerClient]:
        with tritonclient.http.InferenceServerClient(url=f"{address}/news") as client:
            yield client

    @staticmethod
    def texts(texts: list[str], *, binary: bool) -> list[tritonclient.http.InferInput]:
        tensor = tritonclient.http.InferInput("text", [len(texts)], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=object), binary_data=binary)
        return [tensor]

    def test_health_metadata_and_configuration(self, client: tritonclient.http.InferenceServerClient) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("news")
        assert client.is_model_ready("news", "3")
        assert not client.is_model_ready("olds")
        assert client.get_server_metadata()["name"] == "tuneserve"
        metadata = client.get_model_metadata("news")
        assert metadata["versions"] == ["3"]
        assert [output["name"] for output in metadata["outputs"]] == ["label", "score", "scores"]
        assert client.get_model_config("news")["max_batch_size"] == 0

    @pytest.mark.parametrize("binary_input", [True, False])
    @pytest.mark.parametrize("binary_output", [True, False, None])
    def test_texts_are_classified(
        self, client: tritonclient.http.InferenceServerClient, binary_input: bool, binary_output: bool | None
    ) -> None:
        asked = [
            tritonclient.http.InferRequestedOutput(name, binary_data=bool(binary_output))
            for name in ("scores", "label", "score")
        ]
        inputs = self.texts(TEXTS, binary=binary_input)

        result = client.infer("news", inputs, outputs=None if binary_output is None else asked, request_id="7")

        assert (result.get_response()["id"], result.get_response()["model_version"]) == ("7", "3")
        labels = [label if isinstance(label, str) else label.decode() for label in result.as_numpy("label")]
        assert labels == LABELS
        assert result.as_numpy("scores").shape == (3, 2)
        assert result.as_numpy("score")[1] == pytest.approx(SCORE)
        assert result.as_numpy("score") == pytest.approx(result.as_numpy("scores").max(axis=1))

    def test_a_refusal_is_the_error_that_it_knows(self, client: tritonclient.http.InferenceServerClient) -> None:
        with pytest.raises(InferenceServerException, match="there is no model 'olds'") as unknown:
            client.infer("olds", self.texts(["bad"], binary=True))
        with pytest.raises(InferenceServerException, match="'sequence_id' is not known here") as wrong:
            client.infer("news", self.texts(["bad"], binary=True), sequence_id=1)
        assert (unknown.value.status(), wrong.value.status()) == ("404", "400")


class TestMlflow:
    @pytest.fixture
    def client(self, address: str) -> ScoringServerClient:
        host, port = address.split(":")
        client = ScoringServerClient(host, port)
        client.url_prefix += "/news"  # it knows no path
        return client

    @pytest.mark.parametrize(
        "data",
        [TEXTS, np.array(TEXTS), np.array([TEXTS]).T, pd.DataFrame({"text": TEXTS}), pd.DataFrame(TEXTS)],
        ids=str,
    )
    def test_texts_are_scored(self, client: ScoringServerClient, data: object) -> None:
        client.ping()
        client.get_version()

        assert list(client.invoke(data).get_predictions()["label"]) == LABELS

    def test_records_and_csv_are_scored(self, address: str) -> None:
        url = f"http://{address}/news/invocations"
        frame = pd.DataFrame({"text": TEXTS[:2]})

        for response in (
            requests.post(url, json={"dataframe_records": frame.to_dict(orient="records")}),
            requests.post(url, json={"instances": TEXTS[:2]}),
            requests.post(url, data=frame.to_csv(index=False), headers={"Content-Type": "text/csv"}),
        ):
            assert list(PredictionsResponse.from_json(response.text).get_predictions()["label"]) == LABELS[:2]

    def test_a_refusal_says_what_is_wrong(self, client: ScoringServerClient) -> None:
        with pytest.raises(Exception, match=r"error code 400.*BAD_REQUEST.*'top_k' is not known here"):
            client.invoke(TEXTS, params={"top_k": 1})
        assert '"inputs"' in dump_input_data(TEXTS)


def test_our_own_protocol_and_every_answer_names_the_version(address: str) -> None:
    response = httpx.post(f"http://{address}/news/classify", json={"texts": TEXTS})

    assert [found["label"] for found in response.json()["predictions"]] == LABELS
    assert response.headers["X-Model-Version"] == "3"
