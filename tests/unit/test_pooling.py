"""`tuneserve pool`: what it shows, and which bounds it keeps."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from scripts import pooling
from serve.pool import Pool, PoolSpec


class FakeCluster:
    """Whether one is up, and its pool."""

    def __init__(self) -> None:
        self.is_up = True
        self.pool: Pool | None = None
        self.code_uri: str | None = None

    def set_pool(self, spec: PoolSpec) -> None:
        self.pool = Pool(spec, 0, 0)

    @contextmanager
    def gateway_at_hand(self, storage: str, tracking_uri: str) -> Iterator[str | None]:
        yield self.code_uri


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    cluster = FakeCluster()
    monkeypatch.setattr(pooling, "is_cluster_at_hand", lambda: cluster.is_up)
    monkeypatch.setattr(pooling, "connect", lambda private: nullcontext())
    monkeypatch.setattr(pooling, "gateway_at_hand", cluster.gateway_at_hand)
    monkeypatch.setattr(pooling, "pool", lambda: cluster.pool)
    monkeypatch.setattr(pooling, "set_pool", cluster.set_pool)
    monkeypatch.setattr(pooling, "endpoints", list)
    return cluster


def ask(**bounds: float) -> Any:
    given = dict.fromkeys(("max_replicas", "memory_gb", "downscale_to_zero_delay_s"))
    return pooling.show_or_bound(storage="/s", mlflow_uri="sqlite:////s/mlflow.db", **{**given, **bounds})["pool"]


def test_without_bounds_it_starts_nothing(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask() is None
    assert "`tuneserve pool --max-replicas N`" in capsys.readouterr().err
    cluster.is_up = False
    assert ask() is None
    assert "no cluster is up" in capsys.readouterr().err


def test_a_bound_that_is_not_given_stays_as_it_was(cluster: FakeCluster) -> None:
    assert ask(max_replicas=5)["max_replicas"] == 5
    found = ask(memory_gb=0.5)
    assert (found["max_replicas"], found["memory_gb"], found["num_running"]) == (5, 0.5, 0)
    assert ask() == found


def test_a_pool_that_is_bounded_anew_runs_this_code(cluster: FakeCluster) -> None:
    ask(max_replicas=5)
    cluster.code_uri = "file:///code.zip"
    assert ask(max_replicas=5)["code_uri"] == "file:///code.zip"
