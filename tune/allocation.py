"""What one fine-tuning gets of the cluster, and how many fit at once."""

from dataclasses import dataclass

from common.cluster import Resources
from common.errors import ClusterError
from common.recipe import Train
from common.search_settings import Search

MAX_CPUS_PER_WORKER = 16
"""Beyond this many threads the encoders' matrix products no longer get faster."""


@dataclass(frozen=True)
class Allocation:
    """Resources of one fine-tuning and the number of fine-tunings that run at once."""

    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    max_concurrent: int

    @property
    def use_gpu(self) -> bool:
        """Whether the workers hold GPUs."""
        return self.gpus_per_worker > 0


def allocate(train: Train, cluster: Resources, search: Search | None = None) -> Allocation:
    """Shares the cluster out among the workers of one fine-tuning or of a sweep's concurrent trials.

    Raises:
        ClusterError: when the cluster cannot hold the workers of a single fine-tuning, or not as many at once as the
            recipe asks for.
    """
    use_gpu = cluster.num_gpus > 0 if train.use_gpu is None else train.use_gpu
    gpus = train.gpus_per_worker if use_gpu else 0.0
    slots = sum(_slots(node.num_cpus, node.num_gpus, gpus) for node in cluster.nodes)
    needed = train.num_workers.min
    if slots < needed:
        unit = f"{gpus:g} GPU and 1 CPU" if use_gpu else "1 CPU"
        raise ClusterError(
            f"train.num_workers {needed} with {unit} a worker does not fit the cluster: it holds {slots} such workers "
            f"({cluster.num_cpus:g} CPUs, {cluster.num_gpus:g} GPUs). Lower train.num_workers"
            + (", set train.use_gpu=false" if use_gpu else "")
            + ", or start a larger cluster."
        )
    num_cpus = cluster.num_cpus
    if search is not None:
        num_cpus *= search.cluster_share
        slots = max(int(round(slots * search.cluster_share, 6)), needed)
    num_workers = min(train.num_workers.max, slots)
    max_concurrent = 1
    if search is not None:
        held = slots // num_workers
        if search.max_concurrent is not None and search.max_concurrent > held:
            raise ClusterError(
                f"search.max_concurrent {search.max_concurrent} is more than {_whole_or_part(search)} holds: {held} "
                f"trial(s) of {num_workers} worker(s) ({cluster.num_cpus:g} CPUs, {cluster.num_gpus:g} GPUs). Lower "
                "it, leave it out to use all of that, or start a larger cluster."
            )
        max_concurrent = min(held, search.num_trials, search.max_concurrent or held)
    fair = min(int(num_cpus) // (max_concurrent * num_workers), MAX_CPUS_PER_WORKER)
    cpus = next(
        c for c in range(max(fair, 1), 0, -1) if c == 1 or _fit(cluster, c, gpus) >= max_concurrent * num_workers
    )
    return Allocation(num_workers, cpus, gpus, max_concurrent)


def _whole_or_part(search: Search) -> str:
    return (
        "the cluster" if search.cluster_share == 1 else f"search.cluster_share {search.cluster_share:g} of the cluster"
    )


def _fit(cluster: Resources, cpus: int, gpus: float) -> int:
    return sum(_slots(node.num_cpus / cpus, node.num_gpus, gpus) for node in cluster.nodes)


def _slots(num_cpus: float, num_gpus: float, gpus_per_worker: float) -> int:
    """Workers of one CPU and `gpus_per_worker` GPUs that fit a node."""
    if not gpus_per_worker:
        return int(num_cpus)
    # A worker's GPUs are fractions of one device or whole devices; rounding guards 1 / 0.1 against 9.999.
    return min(int(num_cpus), int(round(num_gpus / gpus_per_worker, 6)))
