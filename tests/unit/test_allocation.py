"""Sharing the cluster out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ClusterError
from common.machines import Node, Resources
from common.recipe import NumWorkers, Train
from common.search_settings import Search
from tune.allocation import allocate


def cluster(*nodes: tuple[float, float]) -> Resources:
    return Resources(tuple(Node(*node) for node in nodes))


def workers(number: int) -> Train:
    return Train(num_workers=NumWorkers(min=number, max=number))


def test_a_single_training_takes_the_threads_of_the_machine() -> None:
    assert allocate(Train(), cluster((2, 0))).cpus_per_worker == 2


def test_a_sweep_runs_one_trial_on_each_cpu() -> None:
    found = allocate(Train(), cluster((8, 0)), Search(num_trials=20))
    assert (found.max_concurrent, found.cpus_per_worker) == (8, 1)


def test_few_trials_share_many_cpus() -> None:
    found = allocate(Train(), cluster((8, 0)), Search(num_trials=2))
    assert (found.max_concurrent, found.cpus_per_worker) == (2, 4)


def test_gpus_decide_when_the_cluster_has_them() -> None:
    found = allocate(Train(), cluster((16, 2), (4, 0)), Search(num_trials=20))
    assert (found.max_concurrent, found.gpus_per_worker, found.use_gpu) == (2, 1.0, True)


def test_a_fraction_of_a_gpu_packs_trials() -> None:
    found = allocate(Train(gpus_per_worker=0.1), cluster((32, 1)), Search(num_trials=20))
    assert found.max_concurrent == 10


def test_the_recipe_limits_concurrency() -> None:
    assert allocate(Train(), cluster((8, 0)), Search(max_concurrent=3)).max_concurrent == 3


def test_more_trials_at_once_than_the_cluster_holds_are_refused_with_both_numbers() -> None:
    with pytest.raises(ClusterError, match=r"max_concurrent 5 is more than the cluster holds: 4 trial\(s\)"):
        allocate(workers(2), cluster((8, 0)), Search(max_concurrent=5))
    assert allocate(workers(2), cluster((8, 0)), Search(max_concurrent=4)).max_concurrent == 4


@pytest.mark.parametrize(("share", "trials", "cpus"), [(0.5, 4, 1), (0.3, 2, 1), (0.01, 1, 1), (1.0, 8, 1)])
def test_a_sweep_takes_its_share_of_the_cluster_and_one_trial_at_least(share: float, trials: int, cpus: int) -> None:
    found = allocate(Train(), cluster((4, 0), (4, 0)), Search(cluster_share=share))
    assert (found.max_concurrent, found.cpus_per_worker) == (trials, cpus)


def test_a_share_bounds_the_threads_of_few_trials_too() -> None:
    found = allocate(Train(), cluster((16, 0)), Search(cluster_share=0.5, num_trials=2))
    assert found.max_concurrent * found.cpus_per_worker == 8


def test_a_share_of_gpus_is_a_share_of_gpus() -> None:
    assert allocate(Train(), cluster((32, 8)), Search(cluster_share=0.25)).max_concurrent == 2


def test_more_trials_at_once_than_the_share_holds_are_refused() -> None:
    with pytest.raises(ClusterError, match=r"max_concurrent 5 is more than search.cluster_share 0.5 of the cluster"):
        allocate(Train(), cluster((8, 0)), Search(cluster_share=0.5, max_concurrent=5))


def test_workers_that_do_not_fit_are_refused_with_what_there_is() -> None:
    with pytest.raises(ClusterError, match=r"num_workers 3 .* holds 2 such workers \(2 CPUs, 0 GPUs\)"):
        allocate(workers(3), cluster((2, 0)))


def test_gpus_that_are_not_there_are_refused() -> None:
    with pytest.raises(ClusterError, match=r"set train.use_gpu=false"):
        allocate(Train(use_gpu=True), cluster((2, 0)))


def test_elastic_workers_take_what_there_is() -> None:
    assert allocate(Train(num_workers=NumWorkers(min=1, max=8)), cluster((2, 0))).num_workers == 2


@given(
    nodes=st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=4),
    num_workers=st.integers(1, 4),
    num_trials=st.integers(1, 50),
)
def test_what_is_given_out_is_never_more_than_there_is(
    nodes: list[tuple[int, int]], num_workers: int, num_trials: int
) -> None:
    there = cluster(*nodes)
    try:
        found = allocate(workers(num_workers), there, Search(num_trials=num_trials))
    except ClusterError:
        return
    running = found.max_concurrent * found.num_workers
    assert 1 <= found.max_concurrent <= num_trials
    assert found.cpus_per_worker >= 1
    fit = sum(
        min(cpus // found.cpus_per_worker, gpus // found.gpus_per_worker if found.use_gpu else cpus)
        for cpus, gpus in nodes
    )
    assert running <= fit
