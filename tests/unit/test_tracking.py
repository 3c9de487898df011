import getpass
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from common.errors import TrackingError
from common.tracking import DatasetInput, Tracker, absolute, open_client, refusal, sqlite_uri
from common.tracking_address import PROBE_TIMEOUT_S, probe
from tests.http_server import serving


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def tracker(storage: Path) -> Tracker:
    return Tracker.open(sqlite_uri(str(storage)), "headlines")


def test_a_run_holds_parameters_metrics_by_epoch_recipe_and_data(tracker: Tracker) -> None:
    data = DatasetInput("headlines", "ab" * 32, "headlines.csv", {"train": 80, "test": 10})
    run_id = tracker.start("train", params={"learning_rate": 1e-4}, recipe_yaml="name: headlines\n", dataset=data)
    for epoch in (1, 2):
        tracker.log_metrics(run_id, {"accuracy": epoch / 10, "loss": 1.0}, step=epoch)
    tracker.finish(run_id)

    run = tracker.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"learning_rate": "0.0001"}
    history = tracker.client.get_metric_history(run_id, "accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.1), (2, 0.2)]
    assert run.data.metrics == {"accuracy": 0.2, "loss": 1.0}
    (shown,) = run.inputs.dataset_inputs
    assert shown.dataset.digest == ("ab" * 32)[:36]
    assert "ab" * 32 in shown.dataset.source
    assert [file.path for file in tracker.client.list_artifacts(run_id)] == ["recipe.yaml"]


def test_artifacts_are_beside_the_database(tracker: Tracker, storage: Path) -> None:
    run_id = tracker.start("train", recipe_yaml="name: headlines\n")

    assert tracker.client.get_run(run_id).info.artifact_uri.startswith(f"file://{storage}/mlflow-artifacts/headlines/")
    assert len(list(storage.glob(f"mlflow-artifacts/headlines/{run_id}/artifacts/recipe.yaml"))) == 1


def test_a_database_may_be_named_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    relative = Tracker.open("sqlite:///runs.db", "headlines")

    run_id = relative.start("train", recipe_yaml="name: headlines\n")
    assert (tmp_path / f"mlflow-artifacts/headlines/{run_id}/artifacts/recipe.yaml").is_file()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///runs.db", "sqlite:///{here}/runs.db"),
        ("sqlite:///../runs.db", "sqlite:///{here}/../runs.db"),
        ("sqlite:////data/runs.db", "sqlite:////data/runs.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite://", "sqlite://"),
        ("http://mlflow:5000", "http://mlflow:5000"),
    ],
)
def test_a_databases_path_is_made_absolute_and_nothing_else(
    uri: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute(uri) == expected.format(here=tmp_path)


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 1234"), OSError("No username set")])
def test_a_user_without_a_name_is_recorded_by_number(
    error: Exception, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", refuse)
    assert tracker.client.get_run(tracker.start("train")).data.tags["mlflow.user"] == str(os.getuid())


def test_a_trial_is_a_child_of_its_sweep(tracker: Tracker) -> None:
    sweep = tracker.start("sweep")
    trial = tracker.start("trial", parent_run_id=sweep)

    children = tracker.client.search_runs([tracker.experiment_id], f"tags.mlflow.parentRunId = '{sweep}'")
    assert [run.info.run_id for run in children] == [trial]


def test_an_interrupted_run_is_reopened_and_finished(tracker: Tracker) -> None:
    run_id = tracker.start("trial")
    tracker.finish(run_id, "KILLED")
    tracker.reopen(run_id)
    assert tracker.client.get_run(run_id).info.status == "RUNNING"

    tracker.finish(run_id)
    assert tracker.client.get_run(run_id).info.status == "FINISHED"


def test_runs_are_found_by_all_their_tags_here_or_everywhere(tracker: Tracker) -> None:
    other = Tracker.open(tracker.uri, "tweets")
    here, there = (place.start("run", tags={"test_digest": "d1", "kind": "a"}) for place in (tracker, other))
    tracker.start("run", tags={"test_digest": "d1", "kind": "b"})

    assert tracker.find_runs({"test_digest": "d1", "kind": "a"}) == [here]
    assert set(tracker.find_runs({"test_digest": "d1", "kind": "a"}, everywhere=True)) == {here, there}
    assert tracker.find_runs({"test_digest": "other"}) == []


def test_the_experiment_is_made_once_and_found_again_even_when_deleted(tracker: Tracker) -> None:
    assert Tracker.open(tracker.uri, "headlines").experiment_id == tracker.experiment_id

    deleted = Tracker.open(tracker.uri, "deleted")
    deleted.client.delete_experiment(deleted.experiment_id)
    again = Tracker.open(tracker.uri, "deleted")
    assert again.experiment_id == deleted.experiment_id
    again.start("run")


def test_a_changed_parameter_is_an_error_in_one_line(tracker: Tracker) -> None:
    run_id = tracker.start("train", params={"epochs": 1})

    with pytest.raises(TrackingError, match="epochs"):
        tracker.log_params(run_id, {"epochs": 2})


def test_a_server_that_is_not_there_is_reported() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"

    with pytest.raises(TrackingError, match=rf"{uri} does not answer .*start it, or correct tracking\.mlflow_uri"):
        open_client(uri)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2", "mysql+pymysql"])
def test_a_database_server_that_is_not_there_is_reported_at_once_and_its_password_not(scheme: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with pytest.raises(TrackingError, match=rf"database at 127\.0\.0\.1:{port} does not answer .*start it") as reported:
        open_client(f"{scheme}://me:secret@127.0.0.1:{port}/mlflow")
    assert "secret" not in str(reported.value)


@pytest.mark.parametrize("uri", ["postgresql:///mlflow", "postgresql://a:1,b:2/mlflow", "mysql://h:x/mlflow"])
def test_a_database_that_only_its_driver_can_find_is_not_probed(uri: str) -> None:
    probe(uri)


@pytest.mark.parametrize(
    ("scheme", "port"), [("postgresql", 5432), ("postgresql+psycopg2", 5432), ("mysql+pymysql", 3306)]
)
def test_a_database_server_is_looked_for_at_its_usual_port(
    scheme: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(socket, "create_connection", lambda *arguments: asked.append(arguments) or socket.socket())
    probe(f"{scheme}://db.example/mlflow")
    assert asked == [(("db.example", port), PROBE_TIMEOUT_S)]


def test_a_server_that_accepts_and_stays_silent_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.tracking_address.PROBE_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TrackingError, match="does not answer"):
        open_client(f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.fixture
def failing_server() -> Iterator[str]:
    class Failing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

    with serving(Failing) as url:
        yield url


def test_a_server_in_trouble_is_reported_and_not_retried(failing_server: str) -> None:
    with pytest.raises(TrackingError, match="answers with status 503"):
        open_client(failing_server)


@pytest.mark.parametrize("uri", ["foo://x", "./mlruns", "http://", "sqlite:////proc/none/mlflow.db"])
def test_what_is_no_tracking_uri_is_reported(uri: str) -> None:
    with pytest.raises(TrackingError):
        open_client(uri)


def test_mlflow_neither_reports_home_nor_logs_notes(tracker: Tracker) -> None:
    from mlflow.telemetry import get_telemetry_client

    assert get_telemetry_client() is None
    assert logging.getLogger("mlflow").level == logging.WARNING


def test_importing_costs_no_mlflow() -> None:
    code = "import sys, common.tracking, common.registry; print('mlflow' in sys.modules, 'torch' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False False"


def test_a_password_in_the_address_of_a_server_is_refused_and_not_repeated() -> None:
    with pytest.raises(TrackingError, match=r"^the address http://ann:\*\*\*@mlflow.example of the tracking"):
        open_client("http://ann:s3cr3t@mlflow.example")


def test_a_refusal_shows_no_password_and_says_how_to_log_in() -> None:
    said = str(refusal("postgresql://ann:s3%40cr3t@db/mlflow", RuntimeError("failed with error code 401 != 200")))
    assert said == (
        "postgresql://ann:***@db/mlflow refuses: failed with error code 401 != 200; set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD"
    )
