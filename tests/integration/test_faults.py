"""Whatever is killed under load, the shipped client loses no answer and gets no wrong one."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.classifier import Classifier
from common.cluster import Connection
from common.ray_head import free_port
from common.recipe import Recipe
from common.registry import ModelRegistry
from scripts.checked_load import CheckedLoad, questions, report
from scripts.fault_injection import Part, kill, pids, wait_until, wait_until_replaced
from serve.application import Deployed, deploy_endpoint, remove_endpoint, start_gateway
from tests.tiny_model import register

NAME = "killed"
DEADLINE_S = 120.0
TEXTS = [f"{'good ' * num_good}{'bad ' * num_bad}" for num_good in range(6) for num_bad in range(6)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def endpoint(cluster: Connection, model_folder: Path) -> Iterator[Deployed]:
    start_gateway("127.0.0.1", free_port())
    registry = ModelRegistry(f"sqlite:///{model_folder}/mlflow.db")
    register(registry.tracking_uri, NAME, model_folder)
    registry.set_alias(NAME, "champion", 1)
    settings = {"downscale_to_zero_delay_s": 60.0, "max_replicas": 1}
    recipe = Recipe.model_validate({"name": NAME, "data": {"source": "-"}, "model": {"base": "-"}, "serve": settings})
    yield deploy_endpoint(recipe, tracking_uri=registry.tracking_uri, storage=str(model_folder), code_uri=None)
    remove_endpoint(NAME)


@pytest.mark.parametrize("part", ["replica", "gateway", "controller"])
def test_no_answer_is_lost_or_wrong_when_a_part_is_killed(part: Part, endpoint: Deployed, model_folder: Path) -> None:
    asked = questions(Classifier.load(model_folder / "onnx"), TEXTS)
    began_at = time.monotonic()
    with CheckedLoad(endpoint.url, asked, connections=4, per_s=40.0, timeout_s=DEADLINE_S) as load:
        wait_until(lambda: bool(pids("replica", NAME)), DEADLINE_S, "the endpoint has no replica")
        killed = kill(part, NAME)
        wait_until_replaced(part, NAME, killed, DEADLINE_S)
        num_before = len(load.outcomes())
        wait_until(lambda: len(load.outcomes()) > num_before, DEADLINE_S, "nothing is answered after the fault")
    found = report(load.outcomes(), began_at, time.monotonic())

    assert (found.lost, found.wrong) == ((), ())
    assert found.num_answered >= 10
