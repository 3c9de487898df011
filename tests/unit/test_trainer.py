"""The parts of a fine-tuning under Ray Train that need no cluster."""

import os

import pytest
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from common.cluster import Node, Resources
from common.errors import ClusterError
from common.recipe import Train
from tune import trainer
from tune.trainer import MAX_FAILURES, checkpoint_uri


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = (Node(num_cpus=3, num_gpus=1), Node(num_cpus=3, num_gpus=0))
    monkeypatch.setattr(trainer, "resources", lambda: Resources(nodes))


@pytest.mark.parametrize(
    ("num_workers", "per_worker"),
    [(6, {"CPU": 1.0}), (2, {"CPU": 2.0}), (1, {"CPU": 1.0, "GPU": 0.5}), ({"min": 2, "max": 9}, {"CPU": 2.0})],
)
def test_workers_that_fit_the_nodes_are_let_in(
    num_workers: object, per_worker: dict[str, float], two_nodes: None
) -> None:
    assert trainer._check_room(Train(num_workers=num_workers), per_worker) == 2


@pytest.mark.parametrize(
    ("num_workers", "per_worker", "room"),
    [(3, {"CPU": 2.0}, 2), (2, {"CPU": 1.0, "GPU": 1.0}, 1), (1, {"CPU": 4.0}, 0)],
)
def test_a_worker_fits_one_node_or_none(
    num_workers: int, per_worker: dict[str, float], room: int, two_nodes: None
) -> None:
    with pytest.raises(ClusterError, match=rf"it has room for {room} \(6 CPU, 1 GPU on 2 node\(s\)\)\. Lower"):
        trainer._check_room(Train(num_workers=num_workers), per_worker)


def test_workers_are_a_number_or_bounds_when_training_is_elastic() -> None:
    assert trainer._num_workers(Train(num_workers=2)) == 2
    assert trainer._num_workers(Train(num_workers={"min": 1, "max": 2})) == (1, 2)


def test_a_checkpoint_is_named_by_its_epoch() -> None:
    assert checkpoint_uri("s3://bucket/train/", "trial-4", 12.0) == "s3://bucket/train/trial-4/epoch-0012"


def test_a_failed_training_is_told_in_one_line_from_its_cause() -> None:
    cause = ValueError("Traceback ...\n  a frame\nout of memory\n")
    lost = WorkerGroupError("2 workers failed", {1: ValueError("the other gave up"), 0: cause})
    expected = f"training failed {MAX_FAILURES + 1} times, last in worker 0: ValueError: out of memory"
    assert trainer._reason(lost) == expected
    refused = ControllerError(RuntimeError(""))
    assert trainer._reason(refused) == "training could not be run: RuntimeError: no message"


def test_ray_trains_settings_are_put_back_and_the_users_own_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    own = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
    others = trainer.ENVIRONMENT.keys() - {own}
    monkeypatch.setenv(own, "7")
    for name in others:
        monkeypatch.delenv(name, raising=False)
    with trainer._environment(num_nodes=2):
        assert os.environ[own] == "7"
        assert others <= os.environ.keys()
    assert os.environ[own] == "7"
    assert not others & os.environ.keys()
