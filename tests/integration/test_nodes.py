"""A cluster of three nodes: where workers go, what reaches them there, and what a node that dies takes along.

The nodes are raylets on one machine, each with a cache folder of its own. Gradients go through Gloo: nothing here says
anything about NCCL.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import ray
import ray.util
import ray.util.state
import torch

from common.classifier import Classifier
from common.cluster import Connection
from common.location import filesystem
from common.ray_head import LOOPBACK, free_port
from common.recipe import Recipe, Train
from common.registry import ModelRegistry
from common.tokenised import PreparedData
from scripts.checked_load import CheckedLoad, questions, report
from serve.application import deploy_endpoint, remove_endpoint, start_gateway
from serve.ray_serve import REPLICA_RESOURCE, serve_details
from tests.integration.test_sweep import run as run_sweep
from tests.integration.test_trainer import SETTINGS
from tests.nodes import AddedNode, added_nodes, wait_for
from tests.small_job import small_job
from tests.tiny_model import register
from tests.training_data import prepared_data, write_base_model, write_data
from tune.allocation import Allocation
from tune.train_loop import train
from tune.trainer import TrainResult, fit, loop_config

pytestmark = pytest.mark.slow

NUM_EPOCHS = 30
"""Enough for a node to die in the middle."""

DEADLINE_S = 120.0
TEXTS = [f"{'good ' * num_good}{'bad ' * num_bad}" for num_good in range(6) for num_bad in range(6)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("nodes")
    torch.manual_seed(1)
    return prepared_data(write_data(folder / "data"), write_base_model(folder / "base"))


@pytest.fixture
def no_room_on_the_head(cluster: Connection) -> Iterator[None]:
    """Holds all CPUs of the head; comes before the nodes, or it would hold theirs."""
    held = ray.util.placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    try:
        ray.get(held.ready(), timeout=DEADLINE_S)
        yield
    finally:
        ray.util.remove_placement_group(held)


def train_on_cluster(
    prepared: PreparedData,
    settings: Train,
    storage: Path,
    *,
    cpus_per_worker: int,
    on_report: Callable[[dict[str, float]], None],
) -> TrainResult:
    return fit(
        prepared,
        settings,
        metric="loss",
        run_name="run",
        storage_path=str(storage),
        cpus_per_worker=cpus_per_worker,
        on_report=on_report,
        use_gpu=False,
    )


def losses(history: Iterable[dict[str, float]]) -> list[float]:
    return [metrics["loss"] for metrics in history]


def expected_losses(prepared: PreparedData, settings: Train) -> Any:
    """What one uninterrupted process gives, but for the order of sums, whose rounding adds up over the epochs."""
    history: list[dict[str, float]] = []
    train(loop_config(prepared, settings, num_threads=1), lambda metrics, folder: history.append(metrics))
    return pytest.approx(losses(history), rel=1e-2)


def nodes_of_workers() -> list[str]:
    """The node of each worker of a fine-tuning that runs."""
    here = ray.get_runtime_context().gcs_address  # or other clusters on this machine would be asked
    filters = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
    return [actor.node_id for actor in ray.util.state.list_actors(here, filters=filters)]


def fetched(node: AddedNode) -> bool:
    return any(node.cache.rglob("train.arrow"))


@pytest.mark.parametrize(("placement", "num_nodes"), [("spread", 2), ("pack", 1)])
def test_two_workers_train_like_one_on_as_many_nodes_as_the_recipe_says_with_data_fetched_by_each(
    placement: str,
    num_nodes: int,
    no_room_on_the_head: None,
    bucket: str,
    prepared: PreparedData,
    tmp_path: Path,
) -> None:
    uri = f"{bucket}/{tmp_path.name}"
    files, path = filesystem(uri)
    pyarrow.fs.copy_files(prepared.uri, path, destination_filesystem=files)
    settings = Train(**SETTINGS, epochs=NUM_EPOCHS, num_workers=2, placement=placement)
    seen: set[str] = set()

    def look_once(metrics: dict[str, float]) -> None:
        if not seen:
            seen.update(nodes_of_workers())

    with added_nodes(tmp_path, 2, num_cpus=2) as nodes:
        there = PreparedData.load(uri)
        result = train_on_cluster(there, settings, tmp_path, cpus_per_worker=1, on_report=look_once)
    assert len(seen) == num_nodes
    assert seen == {node.node_id for node in nodes if fetched(node)}
    assert losses(result.history) == expected_losses(prepared, settings)


def test_trials_of_several_workers_are_spread_too(no_room_on_the_head: None, tmp_path: Path) -> None:
    job = small_job(tmp_path, "search.num_trials=1", "train.num_workers=2", "train.placement=spread")
    allocation = Allocation(num_workers=2, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1)
    seen: set[str] = set()
    with added_nodes(tmp_path, 2, num_cpus=2) as nodes:
        (trial,) = run_sweep(job, lambda record: seen.update(nodes_of_workers()), allocation).trials
    assert trial.state == "complete"
    assert seen == {node.node_id for node in nodes}


@pytest.mark.parametrize(
    ("num_workers", "cpus_per_worker", "num_before", "num_after"),
    [
        pytest.param(2, 2, 2, 2, id="a number: as many workers, on the nodes that are left"),
        pytest.param({"min": 2, "max": 3}, 3, 3, 2, id="elastic: with those that are left"),
    ],
)
def test_a_training_goes_on_from_its_checkpoint_when_a_node_dies(
    num_workers: Any,
    cpus_per_worker: int,
    num_before: int,
    num_after: int,
    cluster: Connection,
    prepared: PreparedData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A dead node is missed after some seconds. A group that was begun before waits for it, a minute unless set.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    settings = Train(**SETTINGS, epochs=NUM_EPOCHS, num_workers=num_workers, placement="spread")
    epochs: list[float] = []
    before: list[str] = []
    after: list[str] = []
    killed: list[str] = []
    with added_nodes(tmp_path, 2, num_cpus=cpus_per_worker) as nodes:

        def kill_once(metrics: dict[str, float]) -> None:
            epochs.append(metrics["epoch"])
            if not killed:
                before.extend(nodes_of_workers())
                victim = next(node for node in nodes if node.node_id in before)
                killed.append(victim.node_id)
                victim.kill()
            elif not after:
                after.extend(found if killed[0] not in (found := nodes_of_workers()) else [])

        result = train_on_cluster(prepared, settings, tmp_path, cpus_per_worker=cpus_per_worker, on_report=kill_once)
    assert epochs == list(range(1, NUM_EPOCHS + 1))
    assert (len(before), len(after)) == (num_before, num_after)
    assert losses(result.history) == expected_losses(prepared, settings)


def test_an_endpoint_whose_node_dies_goes_on_and_no_answer_is_lost_or_wrong(
    cluster: Connection, tmp_path: Path
) -> None:
    name = "moved"
    start_gateway(LOOPBACK, free_port())
    registry = ModelRegistry(f"sqlite:///{tmp_path}/mlflow.db")
    registry.set_alias(name, "champion", register(registry.tracking_uri, name, tmp_path))
    settings = {"downscale_to_zero_delay_s": 60.0, "max_replicas": 1}
    recipe = Recipe.model_validate({"name": name, "data": {"source": "-"}, "model": {"base": "-"}, "serve": settings})
    asked = questions(Classifier.load(tmp_path / "onnx"), TEXTS)
    with added_nodes(tmp_path, 2, num_cpus=0, resources={REPLICA_RESOURCE: 1.0}) as nodes:
        endpoint = deploy_endpoint(recipe, tracking_uri=registry.tracking_uri, storage=str(tmp_path), code_uri=None)
        try:
            with CheckedLoad(endpoint.url, asked, connections=4, per_s=40.0, timeout_s=DEADLINE_S) as load:
                wait_for(lambda: bool(nodes_of_replicas(name)), DEADLINE_S)
                (victim,) = (node for node in nodes if [node.node_id] == nodes_of_replicas(name))
                (other,) = (node for node in nodes if node is not victim)
                victim.kill()
                wait_for(lambda: nodes_of_replicas(name) == [other.node_id], DEADLINE_S)
                num_before = len(load.outcomes())
                wait_for(lambda: len(load.outcomes()) > num_before, DEADLINE_S)
        finally:
            remove_endpoint(name)
    found = report(load.outcomes(), 0.0, float("inf"))
    assert (found.lost, found.wrong) == ((), ())


def nodes_of_replicas(name: str) -> list[str]:
    """The node of each replica of the endpoint that answers."""
    application = (serve_details() or {}).get("applications", {}).get(name, {})
    replicas = application.get("deployments", {}).get("Model", {}).get("replicas", [])
    return [replica["node_id"] for replica in replicas if replica["state"] == "RUNNING"]
