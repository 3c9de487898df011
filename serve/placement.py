"""Whether a cluster has a place for an endpoint's replicas. Serve itself would wait for one without end."""

from common.errors import ClusterError
from common.machines import Resources
from common.recipe import Serve


def check_gpus(settings: Serve, cluster: Resources) -> None:
    """Raises `ClusterError` when the replicas that `settings` always keeps, or the first, would find no GPU.

    `settings.num_gpus` is above 0.
    """
    # A replica's share is of one device, and a node has whole devices; rounding guards 1 / 0.1 against 9.999.
    a_device = int(round(1 / settings.num_gpus, 6))
    places = sum(int(node.num_gpus) * a_device for node in cluster.nodes)
    wanted = max(1, settings.min_replicas)
    if places < wanted:
        raise ClusterError(
            f"serve.num_gpus {settings.num_gpus:g}: the cluster has a place for {places} of {wanted} replica(s) "
            f"({cluster.num_cpus:g} CPUs, {cluster.num_gpus:g} GPUs on {len(cluster.nodes)} node(s)). Add nodes with "
            "GPUs, lower serve.min_replicas, or set serve.num_gpus=0 to serve on CPUs"
        )
