"""How a Ray Train group is set up, as far as that needs no cluster."""

import pytest
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from common.errors import ClusterError
from common.machines import Node, Resources
from common.recipe import Train
from tune import train_group
from tune.train_group import ENVIRONMENT, MAX_FAILURES, environment, reason, worker_group


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = (Node(num_cpus=3, num_gpus=1), Node(num_cpus=3, num_gpus=0))
    monkeypatch.setattr(train_group, "resources", lambda: Resources(nodes))


@pytest.mark.parametrize(
    ("settings", "cpus", "asked_for"),
    [
        ({"num_workers": 6}, 1, (6, {"CPU": 1.0})),
        ({"num_workers": 2}, 2, (2, {"CPU": 2.0})),
        ({"num_workers": 1, "gpus_per_worker": 0.5, "use_gpu": True}, 1, (1, {"CPU": 1.0, "GPU": 0.5})),
        ({"num_workers": {"min": 2, "max": 9}}, 2, ((2, 9), {"CPU": 2.0})),
    ],
)
def test_workers_that_fit_the_nodes_are_let_in(
    settings: dict[str, object], cpus: int, asked_for: object, two_nodes: None
) -> None:
    group = worker_group(Train(**settings), cpus, use_gpu=bool(settings.get("use_gpu")))
    assert (group.num_workers, group.resources_per_worker) == asked_for


@pytest.mark.parametrize(
    ("settings", "strategy"), [({}, "PACK"), ({"placement": "pack"}, "PACK"), ({"placement": "spread"}, "SPREAD")]
)
def test_the_recipe_says_whether_workers_are_packed_or_spread(
    settings: dict[str, object], strategy: str, two_nodes: None
) -> None:
    assert worker_group(Train(num_workers=2, **settings), 1, use_gpu=False).placement_strategy == strategy


@pytest.mark.parametrize(
    ("settings", "cpus", "room"),
    [({"num_workers": 3}, 2, 2), ({"num_workers": 2, "use_gpu": True}, 1, 1), ({"num_workers": 1}, 4, 0)],
)
def test_a_worker_fits_one_node_or_none(settings: dict[str, object], cpus: int, room: int, two_nodes: None) -> None:
    with pytest.raises(ClusterError, match=rf"it has room for {room} \(6 CPU, 1 GPU on 2 node\(s\)\)\. Lower"):
        worker_group(Train(**settings), cpus, use_gpu=bool(settings.get("use_gpu")))


def test_a_failed_training_is_told_in_one_line_from_its_cause() -> None:
    cause = ValueError("Traceback ...\n  a frame\nout of memory\n")
    lost = WorkerGroupError("2 workers failed", {1: ValueError("the other gave up"), 0: cause})
    assert reason(lost) == f"training failed {MAX_FAILURES + 1} times, last in worker 0: ValueError: out of memory"
    refused = ControllerError(RuntimeError(""))
    assert reason(refused) == "training could not be run: RuntimeError: no message"


def test_what_the_user_has_set_for_ray_train_stays(two_nodes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    own = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
    others = ENVIRONMENT.keys() - {own}
    monkeypatch.setenv(own, "7")
    for name in others:
        monkeypatch.delenv(name, raising=False)
    assert environment().keys() == others
