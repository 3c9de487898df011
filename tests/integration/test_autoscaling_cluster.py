"""The machines of `cluster.yaml` come when there is work for them and go when it ends, on Ray's own autoscaler.

The machines are nodes on this one and their GPUs are numbers: this shows who asks for what and who lets go, and nothing
about GPUs.
"""

from collections.abc import Iterator

import pytest

from tests.fake_cloud import FakeCloud

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCloud]:
    cloud = FakeCloud(tmp_path_factory.mktemp("cloud"))
    try:
        cloud.start()
        yield cloud
    finally:
        cloud.end()


def test_a_sweep_with_gpu_trials_brings_gpu_machines_and_its_end_lets_them_go(cloud: FakeCloud) -> None:
    saw = cloud.drive("sweep")

    assert saw["before"] == {"gpu": 0, "serving": 0, "all": 0}
    assert saw["gpus_per_trial"] == 1.0
    assert saw["while"] == {"gpu": 2, "serving": 0, "all": 2}
    assert saw["states"] == ["complete", "complete"]


def test_endpoints_hold_no_machine_asleep_and_one_for_endpoints_awake(cloud: FakeCloud) -> None:
    saw = cloud.drive("endpoints")

    assert saw["offered"]
    assert saw["asleep"] == 0
    assert saw["awake"] == {"gpu": 0, "serving": 1, "all": 1}
    assert saw["answers"] == ["good", "good", "good"]
    # One endpoint comes from a config file of Serve's, which does not know of the other and leaves it alone.
    assert saw["declared_port"]
    assert saw["left"] == ["cloud", "declared"]
