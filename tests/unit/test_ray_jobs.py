"""Commands as jobs: what is handed on, and how a job's end becomes the command's."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError, JobError
from common.jobs import SubmittedJob
from scripts import ray_jobs

RUNNING = SubmittedJob("sweep-1", "RUNNING", "sweep r.yaml", None, None, None, "", None)


class Cluster:
    """A Jobs API on which the submitted job prints two pieces and ends with `exit_code`."""

    def __init__(self) -> None:
        self.submitted: list[list[str]] = []
        self.places: list[tuple[str | None, str | None]] = []
        self.elsewhere = False
        self.exit_code = 0
        self.said: Any = None

    def submit(self, arguments: list[str], **places: str | None) -> tuple[SubmittedJob, int]:
        self.submitted.append(arguments)
        self.places.append((places["storage"], places["tracking_uri"]))
        return RUNNING, 2048

    def is_elsewhere(self, address: str | None) -> bool:
        return self.elsewhere

    def follow(self, submission_id: str, *, address: str | None) -> Iterator[str]:
        yield from ("half a ", "line\n")

    def get(self, submission_id: str, *, address: str | None) -> SubmittedJob:
        return replace(RUNNING, status="FAILED" if self.exit_code else "SUCCEEDED", exit_code=self.exit_code)

    def result(self, job: SubmittedJob) -> Any:
        return self.said


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cluster:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path))
    cluster = Cluster()
    for name in ("submit", "follow", "get", "result", "is_elsewhere"):
        monkeypatch.setattr(ray_jobs.jobs, name, getattr(cluster, name))
    return cluster


PLACES = {"storage": "/storage", "mlflow_uri": "http://mlflow"}


def submit(*words: str, as_json: bool = False, no_wait: bool = False, **named: str | None) -> dict[str, Any]:
    places = {**PLACES, "address": None, "submission_id": None, **named}
    return ray_jobs.submit(words, commands=("sweep", "run"), as_json=as_json, no_wait=no_wait, **places)


def test_what_cannot_run_as_a_job_is_refused_with_what_can(cluster: Cluster) -> None:
    with pytest.raises(InputError, match="'up' cannot run as a job; choose from sweep, run"):
        submit("up")
    assert cluster.submitted == []


@pytest.mark.parametrize("words", [("sweep", "r.yaml"), ("sweep", "r.yaml", "--json")])
def test_json_is_handed_on_once(words: tuple[str, ...], cluster: Cluster) -> None:
    submit(*words, as_json=True)
    assert cluster.submitted == [["sweep", "r.yaml", "--json"]]


def test_without_json_the_command_is_handed_on_as_it_is(cluster: Cluster) -> None:
    submit("sweep", "r.yaml")
    assert cluster.submitted == [["sweep", "r.yaml"]]


def test_the_jobs_log_goes_to_stderr_and_its_result_is_the_result(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.said = {"sweep_id": "s"}
    assert submit("sweep", "r.yaml", as_json=True) == {"sweep_id": "s"}
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("half a line\n")


def test_a_job_without_a_result_is_the_result(cluster: Cluster) -> None:
    assert submit("sweep", "r.yaml") == asdict(replace(RUNNING, status="SUCCEEDED", exit_code=0))


def test_a_job_that_failed_ends_with_its_exit_code(cluster: Cluster) -> None:
    cluster.exit_code = 130
    with pytest.raises(JobError, match="job sweep-1: FAILED, exit code 130") as failed:
        submit("sweep", "r.yaml")
    assert failed.value.exit_code == 130


def test_a_job_that_is_not_waited_for_is_not_followed(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.exit_code = 1
    assert submit("sweep", "r.yaml", no_wait=True) == asdict(RUNNING)
    assert "half a line" not in capsys.readouterr().err


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_places_that_are_named_go_to_any_cluster(cluster: Cluster, is_elsewhere: bool) -> None:
    cluster.elsewhere = is_elsewhere
    submit("sweep", "r.yaml")
    assert cluster.places == [("/storage", "http://mlflow")]


def test_this_machines_places_are_not_those_of_a_cluster_elsewhere(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.elsewhere = True
    for name in ("TUNESERVE_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    submit("sweep", "r.yaml", storage=None, mlflow_uri=None)
    monkeypatch.setenv("TUNESERVE_STORAGE", "s3://bucket")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://shared")
    submit("sweep", "r.yaml", storage=None, mlflow_uri=None)
    assert cluster.places == [(None, None), ("s3://bucket", "http://shared")]


def test_on_this_machines_cluster_a_job_gets_this_machines_places(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("TUNESERVE_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    submit("sweep", "r.yaml", storage=None, mlflow_uri=None)
    assert cluster.places == [(f"{tmp_path}/outputs", f"sqlite:///{tmp_path}/outputs/mlflow.db")]
