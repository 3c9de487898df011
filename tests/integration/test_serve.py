"""The endpoint on real Ray Serve: it wakes, answers, follows the alias and goes back to nothing."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray

from common.api_keys import create_key, revoke_key
from common.cluster import PROJECT_ROOT, Connection
from common.errors import ClusterError, RegistryError, ServingError
from common.ray_head import free_port
from common.recipe import Recipe
from common.registry import ModelRegistry
from scripts.logged_requests import requests
from scripts.replay import replay
from serve.application import (
    Deployed,
    EndpointState,
    deploy_endpoint,
    endpoints,
    follow_alias,
    remove_endpoint,
    start_gateway,
)
from serve.drift import MIN_TEXTS
from serve.ray_serve import check_port_is_free, serve_details
from tests.tiny_model import register

DEADLINE_S = 60.0
NAME = "tiny"
DASHBOARD = PROJECT_ROOT / "docs" / "grafana-dashboard.json"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    return ModelRegistry(f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db")


@pytest.fixture(scope="module")
def gateway(cluster: Connection) -> str:
    return start_gateway("127.0.0.1", free_port())


@pytest.fixture(scope="module")
def endpoint(gateway: str, registry: ModelRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Serves version 1 of two; both have the same words, and version 2 swaps the labels."""
    folder = tmp_path_factory.mktemp("models")
    for number in (1, 2):
        register(registry.tracking_uri, NAME, folder / str(number), swapped=number == 2)
    registry.set_alias(NAME, "champion", 1)
    yield deploy(registry, folder)
    remove_endpoint(NAME)


@pytest.fixture
def client(gateway: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway, timeout=DEADLINE_S, trust_env=False) as client:
        yield client


def deploy(registry: ModelRegistry, storage: Path, name: str = NAME, auth: str = "auto") -> Deployed:
    settings = {"downscale_to_zero_delay_s": 1.0, "max_replicas": 1, "auth": auth, "request_log": {}}
    recipe = Recipe.model_validate({"name": name, "data": {"source": "-"}, "model": {"base": "-"}, "serve": settings})
    return deploy_endpoint(recipe, tracking_uri=registry.tracking_uri, storage=str(storage), code_uri=None)


def wait_until(holds: Callable[[], bool], says: Callable[[], object] = lambda: "") -> None:
    """Fails with what `says` tells when it does not hold in time."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"it did not happen in time: {says()}"
        time.sleep(0.05)


def state() -> EndpointState:
    (found,) = (found for found in endpoints() if found.name == NAME)
    return found


def model_deployment() -> dict[str, Any]:
    details = serve_details()
    assert details is not None
    deployment: dict[str, Any] = details["applications"][NAME]["deployments"]["Model"]
    return deployment


def test_deploying_tells_where_it_answers_and_wakes_nothing(
    endpoint: Deployed, gateway: str, registry: ModelRegistry
) -> None:
    assert endpoint == Deployed(f"{gateway}/{NAME}", NAME, 1)
    assert state() == EndpointState(
        name=NAME,
        url=f"{gateway}/{NAME}",
        model=NAME,
        alias="champion",
        tracking_uri=registry.tracking_uri,
        version=1,
        replicas=0,
        state="asleep",
        pool="own",
    )


def test_health_documentation_and_wrong_requests_wake_nothing(endpoint: Deployed, client: httpx.Client) -> None:
    wait_until(lambda: state().state == "asleep")
    replicas_before = model_deployment()["recent_dead_replicas"]

    for path in ("/healthz", f"/{NAME}/healthz", "/docs", "/openapi.json", "/", f"/{NAME}", f"/{NAME}/card"):
        assert client.get(path).status_code == 200
    assert client.get(f"/{NAME}/classify").status_code == 405
    assert client.post(f"/{NAME}/nowhere", json={"text": "good"}).status_code == 404
    assert client.post("/nowhere/classify", json={"text": "good"}).status_code == 404
    assert client.post(f"/{NAME}/classify", json={"words": "good"}).status_code == 422

    seen = client.get(f"/{NAME}/healthz").json()
    assert (seen["state"], seen["replicas"]) == ("asleep", 0)
    deployment = model_deployment()
    assert (deployment["target_num_replicas"], deployment["replicas"]) == (0, [])
    assert deployment["recent_dead_replicas"] == replicas_before


def test_the_first_request_wakes_the_endpoint_and_idleness_removes_it(endpoint: Deployed, client: httpx.Client) -> None:
    wait_until(lambda: state().state == "asleep")

    response = client.post(f"/{NAME}/classify", json={"texts": ["good good", "bad"]})

    assert response.status_code == 200
    assert [found["label"] for found in response.json()["predictions"]] == ["good", "bad"]
    assert response.json()["version"] == 1
    wait_until(lambda: (state().state, state().replicas) == ("awake", 1))
    wait_until(lambda: (state().state, state().replicas) == ("asleep", 0))


def test_every_protocol_is_reached_and_every_answer_names_its_request_and_version(
    endpoint: Deployed, client: httpx.Client
) -> None:
    text = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}
    bodies = {
        "": {"inputs": "good"},
        "/classify": {"text": "good"},
        "/predict": {"inputs": [["good", "good"]]},
        "/invocations": {"inputs": ["good"]},
        f"/v2/models/{NAME}/infer": {"inputs": [text]},
    }

    answers = [
        client.post(f"/{NAME}{path}", json=body, headers={"x-request-id": "mine"}) for path, body in bodies.items()
    ]
    answers.append(client.post(f"/{NAME}", json={}, headers={"x-request-id": "mine"}))
    answers += [client.get(f"/{NAME}/{path}", headers={"x-request-id": "mine"}) for path in ("info", "v2/health/ready")]

    assert [answer.status_code for answer in answers] == [200] * 5 + [422] + [200] * 2
    assert {answer.headers["X-Model-Version"] for answer in answers} == {"1"}
    assert {answer.headers["x-request-id"] for answer in answers} == {"mine"}
    assert client.get(f"/{NAME}/ping").headers["x-request-id"] not in {"", "mine"}


def test_a_client_that_does_not_wait_for_the_wake_has_started_it(endpoint: Deployed, client: httpx.Client) -> None:
    wait_until(lambda: state().state == "asleep")

    response = client.post(f"/{NAME}", json={"inputs": "good"}, headers={"X-Scale-Up-Timeout": "0"})

    assert response.status_code == 504
    wait_until(lambda: state().state == "awake")


def test_a_sleeping_endpoint_answers_while_every_cpu_is_taken(endpoint: Deployed, client: httpx.Client) -> None:
    wait_until(lambda: state().state == "asleep")
    num_cpus = ray.cluster_resources()["CPU"]
    sweep = ray.util.placement_group([{"CPU": 1.0}] * int(num_cpus))
    try:
        ray.get(sweep.ready(), timeout=DEADLINE_S)

        response = client.post(f"/{NAME}/classify", json={"text": "good"})
    finally:
        ray.util.remove_placement_group(sweep)

    assert response.json()["label"] == "good"


def test_answers_carry_the_new_version_once_the_alias_moved_and_no_request_fails(
    endpoint: Deployed, client: httpx.Client, registry: ModelRegistry
) -> None:
    client.post(f"/{NAME}/classify", json={"text": "good"}).raise_for_status()
    statuses: set[int] = set()
    answers: list[tuple[int, str]] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            response = client.post(f"/{NAME}/classify", json={"text": "good"})
            statuses.add(response.status_code)
            answers.append((response.json()["version"], response.json()["label"]))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        registry.set_alias(NAME, "champion", 2)
        follow_alias(NAME, 2, DEADLINE_S)
        wait_until(lambda: answers[-1][0] == 2)
        assert registry.rollback(NAME, "champion") == (2, 1)
        follow_alias(NAME, 1, DEADLINE_S)
        wait_until(lambda: answers[-1][0] == 1)
    finally:
        done.set()
        asking.join()

    assert statuses == {200}
    assert set(answers) == {(1, "good"), (2, "bad")}


def test_a_replica_holds_neither_torch_nor_transformers_nor_mlflow(endpoint: Deployed, client: httpx.Client) -> None:
    client.post(f"/{NAME}/classify", json={"text": "good"}).raise_for_status()
    wait_until(lambda: state().state == "awake")
    (replica,) = model_deployment()["replicas"]
    actor = ray.get_actor(replica["actor_name"], namespace="serve")

    modules = ray.get(actor.__ray_call__.remote(lambda _: sorted(__import__("sys").modules)))

    assert "onnxruntime" in modules
    assert not {"torch", "transformers", "mlflow", "datasets", "optuna"} & set(modules)


def test_requests_are_answered_after_a_replica_died(endpoint: Deployed, client: httpx.Client) -> None:
    client.post(f"/{NAME}/classify", json={"text": "good"}).raise_for_status()
    wait_until(lambda: state().state == "awake")
    (replica,) = model_deployment()["replicas"]
    ray.kill(ray.get_actor(replica["actor_name"], namespace="serve"))

    responses = [client.post(f"/{NAME}/classify", json={"text": "good"}) for _ in range(5)]

    assert [response.status_code for response in responses] == [200] * 5


def test_deploying_again_changes_nothing(endpoint: Deployed, client: httpx.Client, registry: ModelRegistry) -> None:
    client.post(f"/{NAME}/classify", json={"text": "good"}).raise_for_status()
    details = serve_details()
    assert details is not None
    storage = Path(model_deployment()["deployment_config"]["user_config"]["storage"])

    assert deploy(registry, storage) == endpoint

    again = serve_details()
    assert again is not None
    assert again["applications"][NAME]["last_deployed_time_s"] == details["applications"][NAME]["last_deployed_time_s"]


def test_starting_the_gateway_again_finds_the_running_one(gateway: str) -> None:
    assert start_gateway("127.0.0.1", free_port()) == gateway


def test_deploying_what_is_not_registered_is_refused_and_leaves_nothing(
    gateway: str, registry: ModelRegistry, tmp_path: Path
) -> None:
    with pytest.raises(RegistryError, match=r"'unknown'.*tuneserve promote"):
        deploy(registry, tmp_path, name="unknown")
    assert "unknown" not in {found.name for found in endpoints()}


def test_an_endpoint_that_is_not_there_cannot_be_removed(gateway: str) -> None:
    with pytest.raises(ServingError, match="there is no endpoint 'unknown'"):
        remove_endpoint("unknown")


def test_a_port_that_is_taken_is_named(cluster: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=f"port {port} on 127.0.0.1 is taken"):
            check_port_is_free("127.0.0.1", port)


def test_every_figure_on_the_dashboard_is_exported_under_that_name(endpoint: Deployed, client: httpx.Client) -> None:
    wait_until(lambda: state().state == "asleep")
    # As many as the drift figures need.
    client.post(f"/{NAME}/classify", json={"texts": ["good"] * MIN_TEXTS}).raise_for_status()
    on_dashboard = set(re.findall(r"ray_tuneserve_\w+", DASHBOARD.read_text()))
    on_dashboard -= {"ray_tuneserve_canary_agreement"}  # of what has been compared, which takes a candidate
    head = next(node for node in ray.nodes() if "node:__internal_head__" in node["Resources"])

    def exported() -> set[str]:
        metrics = httpx.get(f"http://127.0.0.1:{head['MetricsExportPort']}/metrics", trust_env=False).text
        return set(re.findall(r"^(ray_tuneserve_\w+)\{", metrics, re.MULTILINE))

    wait_until(lambda: on_dashboard <= exported(), lambda: f"not exported: {on_dashboard - exported()}")


def test_what_was_asked_is_logged_shown_and_replayed_with_another_version(
    endpoint: Deployed, client: httpx.Client, registry: ModelRegistry
) -> None:
    texts = ["good good jane@example.org", "bad"]
    for body in ({"texts": texts}, {"words": "refused, and never a text"}):
        client.post(f"/{NAME}/classify", json=body, headers={"x-request-id": "logged"})
    storage = str(model_deployment()["deployment_config"]["user_config"]["storage"])

    def logged() -> list[dict[str, Any]]:
        found = requests(NAME, since="1h", limit=1000, label=None, storage=storage)["requests"]
        return [row for row in found if row["request_id"] == "logged"]

    def told() -> list[str]:
        return [row["text"] for row in client.get(f"/{NAME}/requests").json()["requests"][:2]]

    wait_until(lambda: told() == texts[::-1])
    wait_until(lambda: len(logged()) == 2)
    assert {(row["text"], row["label"], row["version"], row["status"]) for row in logged()} == {
        (texts[0], "good", 1, 200),
        (texts[1], "bad", 1, 200),
    }

    settings: dict[str, Any] = {"alias": None, "since": "1h", "limit": 2, "out": None, "storage": storage}
    same = replay(NAME, version=1, mlflow_uri=registry.tracking_uri, **settings)
    swapped = replay(NAME, version=2, mlflow_uri=registry.tracking_uri, **settings)

    assert (same["agreement"], same["disagreements"]) == (1.0, [])
    assert swapped["agreement"] == 0.0
    assert {(row["text"], row["candidate_label"]) for row in swapped["disagreements"]} == {
        (texts[0], "bad"),
        (texts[1], "good"),
    }


def test_a_key_opens_the_endpoint_that_asks_for_one_until_it_is_revoked(
    gateway: str, registry: ModelRegistry, tmp_path: Path, client: httpx.Client
) -> None:
    locked = "locked"
    register(registry.tracking_uri, locked, tmp_path / "model")
    registry.set_alias(locked, "champion", 1)
    key = create_key("ci", [locked])
    header = {"Authorization": f"Bearer {key}"}

    def status(headers: dict[str, str]) -> int:
        return client.get(f"/{locked}/healthz", headers=headers).status_code

    deploy(registry, tmp_path, name=locked, auth="required")  # itself without a key
    try:
        assert status({}) == 401
        wait_until(lambda: status(header) == 200)
        revoke_key("ci")
        wait_until(lambda: status(header) == 401)
    finally:
        remove_endpoint(locked)
