"""One Ray cluster for all integration tests: what `tuneserve up` starts, with its own home; one Chromium."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray
import ray.util
import ray.util.state

from common.cluster import Connection, connect, down, read_record, up
from common.ray_head import LOOPBACK, free_port, session_folder
from scripts.serving import up_gateway
from serve.endpoints import Deployment
from tests import browser
from tests.browser import Browser, Page
from tests.page_gateway import AWAKE, Gateway, Serve, listening
from tests.services import S3_CREDENTIALS, Gate, s3_server

TRACKING_PASSWORD = "tr4ck1ng-s3cr3t"
CLUSTER_SECRET = "c1u5ter-s3cr3t"
"""In the environment that the cluster was started in, as `CLUSTER_SECRET`."""

DEADLINE_S = 30.0
MAX_ACTORS = 10_000


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


@pytest.fixture(scope="session")
def gateway(cluster: Connection) -> None:
    """On a port of its own: the default one may be in use on this machine."""
    record = read_record()
    assert record is not None
    up_gateway(record.storage, record.tracking_uri, gateway_port=free_port())


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if browser.installed() is None:
        pytest.skip(f"the endpoint's page is not tested, for want of Chromium: apt-get install {browser.PACKAGE}")
    with Browser.started(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """An empty page, in which nothing may fail and which may ask nobody but the gateway."""
    with chromium.page() as opened:
        yield opened
        assert opened.problems == []
        assert {host.partition(":")[0] for host in opened.hosts} <= {"127.0.0.1", ""}


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts a gateway for the page, in front of the endpoint `news`, which is awake unless a test says otherwise."""
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path))
    with ExitStack() as running:

        def start(news: Deployment = AWAKE, **options: Any) -> Gateway:
            return running.enter_context(listening(tmp_path, news, **options))

        yield start


@pytest.fixture
def nothing_is_left(cluster: Connection) -> Iterator[None]:
    """However the sweeps of a test end, they leave no actor, no placement group and no process on the cluster."""
    actors_of_others = {actor.actor_id for actor in own_actors()}  # such as Serve's
    groups_of_others = placement_groups()
    yield
    assert placement_groups() <= groups_of_others

    def made() -> list[Any]:
        return [actor for actor in own_actors() if actor.actor_id not in actors_of_others]

    pids = {actor.pid for actor in made() if actor.pid}
    assert pids
    wait_until(lambda: {actor.state for actor in made()} == {"DEAD"}, "actors are left")
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "processes are left")


def own_actors() -> list[Any]:
    """Of this driver, dead or alive, but for the one that Ray Train keeps in a cluster once it was used there."""
    here = ray.get_runtime_context().gcs_address  # or other clusters on this machine would be asked
    job = ray.get_runtime_context().get_job_id()
    found = ray.util.state.list_actors(here, filters=[("job_id", "=", job)], limit=MAX_ACTORS)
    return [actor for actor in found if actor.name != "AutoscalingCoordinator"]


def placement_groups() -> set[str]:
    """Ids of those that are not removed."""
    table = ray.util.placement_group_table()
    return {group_id for group_id, group in table.items() if group["state"] != "REMOVED"}


def wait_until(holds: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, problem
        time.sleep(0.2)
