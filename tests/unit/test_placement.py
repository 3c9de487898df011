import pytest

from common.errors import ClusterError
from common.machines import Node, Resources
from common.recipe import Serve
from serve.placement import check_gpus

TWO_GPUS = Resources((Node(4.0, 0.0), Node(8.0, 2.0)))


@pytest.mark.parametrize(("num_gpus", "min_replicas"), [(1.0, 0), (1.0, 2), (0.5, 4), (0.1, 20), (0.75, 2)])
def test_replicas_that_fit_are_accepted(num_gpus: float, min_replicas: int) -> None:
    check_gpus(Serve(num_gpus=num_gpus, min_replicas=min_replicas, max_replicas=99), TWO_GPUS)


@pytest.mark.parametrize(("num_gpus", "min_replicas", "places"), [(1.0, 3, 2), (0.5, 5, 4), (0.75, 3, 2)])
def test_replicas_that_do_not_fit_are_refused(num_gpus: float, min_replicas: int, places: int) -> None:
    settings = Serve(num_gpus=num_gpus, min_replicas=min_replicas, max_replicas=99)
    with pytest.raises(ClusterError, match=rf"place for {places} of {min_replicas} replica"):
        check_gpus(settings, TWO_GPUS)


def test_a_cluster_without_gpus_is_refused_with_the_setting_and_what_there_is() -> None:
    message = (
        r"serve.num_gpus 0.5: .* place for 0 of 1 replica\(s\) \(4 CPUs, 0 GPUs on 1 node\(s\)\).*set serve.num_gpus=0"
    )
    with pytest.raises(ClusterError, match=message):
        check_gpus(Serve(num_gpus=0.5), Resources((Node(4.0, 0.0),)))
