"""One Ray cluster for all integration tests: what `tuneserve up` starts, in a home folder of its own."""

import shutil
from collections.abc import Iterator

import pytest

from common.cluster import Connection, connect, down, up
from common.ray_head import free_port, session_folder

CLUSTER_SECRET = "c1u5ter-s3cr3t"
"""In the environment that the cluster was started in, as `CLUSTER_SECRET`."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A cluster of 4 declared CPUs on free ports; this process is one of its drivers. No gateway is started."""
    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESERVE_HOME", str(folder / "home"))
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "TUNESERVE_STORAGE", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        patch.setenv("CLUSTER_SECRET", CLUSTER_SECRET)
        storage = folder / "storage"
        storage.mkdir()
        try:
            up(
                storage=str(storage),
                tracking_uri=f"sqlite:///{storage}/mlflow.db",
                num_cpus=4,
                dashboard_port=free_port(),
            )
            with connect(private=False) as connection:
                yield connection
        finally:
            down()
            shutil.rmtree(session_folder(), ignore_errors=True)
