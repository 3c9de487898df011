"""One Ray cluster for all integration tests: what `tuneserve up` starts, in a home folder of its own."""

import shutil
from collections.abc import Iterator

import httpx
import pytest

from common.cluster import Connection, connect, down, up
from common.ray_head import LOOPBACK, free_port, session_folder
from tests.services import S3_CREDENTIALS, Gate, s3_server

TRACKING_PASSWORD = "tr4ck1ng-s3cr3t"
CLUSTER_SECRET = "c1u5ter-s3cr3t"
"""In the environment that the cluster was started in, as `CLUSTER_SECRET`."""


@pytest.fixture(scope="session")
def s3_gate() -> Iterator[Gate]:
    """Where all processes of these tests, and of their cluster, look for S3."""
    gate = Gate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{LOOPBACK}:{gate.port}")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name, value in S3_CREDENTIALS.items():
            patch.setenv(name, value)
        yield gate
    gate.end()


@pytest.fixture(scope="session")
def bucket(s3_gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty bucket of an S3 server, as a URL."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as port:
        s3_gate.target_port = port
        httpx.put(f"http://{LOOPBACK}:{port}/bucket").raise_for_status()
        yield "s3://bucket"
        s3_gate.target_port = None


@pytest.fixture(scope="session")
def credentials() -> Iterator[None]:
    """For a tracking server, in the environment of these tests and of their cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", TRACKING_PASSWORD)
        yield


@pytest.fixture(scope="session")
def cluster(s3_gate: Gate, credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
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
