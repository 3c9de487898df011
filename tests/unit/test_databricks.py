"""Databricks as tracking server, played by a small one on this machine."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from common.databricks import is_databricks, lock_name, refuse_unusable_names, registry_of
from common.errors import TrackingError
from common.job_inputs import Destination, require_shared
from common.recipe_file import load_recipe
from common.tracking import Tracker, open_client
from scripts.job import Job
from tests.http_server import answer_json, serving
from tests.small_job import small_job


@dataclass
class Workspace:
    """What it was asked."""

    url: str = ""
    tokens: set[str] = field(default_factory=set)
    """The `Authorization` headers of requests to MLflow."""
    runs: list[dict[str, object]] = field(default_factory=list)


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    told = Workspace()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/api/2.0/mlflow/experiments/get-by-name"):
                told.tokens.add(self.headers["Authorization"])
                answer_json(
                    self, {"experiment": {"experiment_id": "7", "name": "/Shared/spam", "lifecycle_stage": "active"}}
                )
            else:
                answer_json(self, {}, 404)

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.tokens.add(self.headers["Authorization"])
            if self.path == "/api/2.0/mlflow/runs/create":
                told.runs.append(content)
            info = {"run_id": "r1", "run_uuid": "r1", "experiment_id": "7", "status": "RUNNING", "start_time": 1}
            answer_json(self, {"run": {"info": info, "data": {}}})

    with serving(Handler) as told.url:
        monkeypatch.setenv("DATABRICKS_HOST", told.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-secret")
        yield told


def test_runs_go_to_the_workspace_with_the_token_of_the_environment(workspace: Workspace) -> None:
    tracker = Tracker.open("databricks", "/Shared/spam")
    assert tracker.experiment_id == "7"
    assert tracker.start("trial-0", params={"epochs": 1}) == "r1"
    assert workspace.tokens == {"Bearer dapi-secret"}
    assert [run["run_name"] for run in workspace.runs] == ["trial-0"]
    assert tracker.client._registry_uri == "databricks-uc"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (("DATABRICKS_HOST",), "needs DATABRICKS_HOST in the environment"),
        (("DATABRICKS_TOKEN",), "needs DATABRICKS_TOKEN in the environment"),
        (("DATABRICKS_HOST", "DATABRICKS_TOKEN"), "needs DATABRICKS_HOST and DATABRICKS_TOKEN in the environment"),
    ],
)
def test_a_missing_host_or_token_is_named_with_the_way_out(
    missing: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN"):
        monkeypatch.setenv(name, "given")
    for name in missing:
        monkeypatch.delenv(name)
    with pytest.raises(TrackingError, match=rf"{said} .*databricks://PROFILE"):
        open_client("databricks")


def test_a_host_that_does_not_answer_is_reported(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"does not answer .*; correct DATABRICKS_HOST"):
        open_client("databricks")


def test_the_registry_alone_is_refused(workspace: Workspace) -> None:
    with pytest.raises(TrackingError, match=r"databricks-uc is a registry and takes no runs; set .*=databricks:"):
        open_client("databricks-uc")


def test_models_of_a_workspace_go_to_unity_catalog_and_others_stay() -> None:
    assert registry_of("databricks") == "databricks-uc"
    assert registry_of("databricks://work") == "databricks-uc://work"
    assert registry_of("http://databricks.example") == "http://databricks.example"
    assert not is_databricks("databricks-uc")


def test_names_that_a_workspace_does_not_take_are_refused_when_the_recipe_is_read(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"set tracking\.experiment=/Shared/small"):
        _job(tmp_path)
    with pytest.raises(TrackingError, match=r"'small' has not; set registry\.model=CATALOG\.SCHEMA\.small"):
        _job(tmp_path, "tracking.experiment=/Shared/small")
    job = _job(tmp_path, "tracking.experiment=/Shared/small", "registry.model=main.nlp.small")
    assert job.tracking_uri == "databricks"
    refuse_unusable_names("http://mlflow.example", "small", "small")


def _job(folder: Path, *overrides: str) -> Job:
    small_job(folder)
    return Job.load(str(folder / "recipe.yaml"), overrides, str(folder / "storage"), "databricks")


def test_databricks_is_no_folder_and_no_file_of_this_machine(tmp_path: Path) -> None:
    small_job(tmp_path)
    (tmp_path / "databricks").mkdir()
    (tmp_path / "recipe.yaml").open("a").write("tracking: {mlflow_uri: databricks}\n")
    assert load_recipe(tmp_path / "recipe.yaml").tracking.mlflow_uri == "databricks"
    require_shared(Destination("http://elsewhere", "s3://bucket", is_local=False), "databricks")


def test_the_lock_lies_in_the_models_schema_on_databricks_alone() -> None:
    assert lock_name("databricks", "main.nlp.spam") == "main.nlp.tuneserve_lock_spam"
    assert lock_name("http://mlflow.example", "a.b.c") == "tuneserve.lock.a.b.c"
