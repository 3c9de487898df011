"""A tracking server as `scripts/mlflow-server` starts it: PostgreSQL, passwords, artifacts through the server."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import mlflow
import psutil
import pytest
from mlflow.server import get_app_client

from common.classifier import Classifier
from common.cluster import Connection
from common.errors import TrackingError
from common.owner import owner
from common.ray_head import LOOPBACK, free_port
from common.recipe import Recipe
from common.registry import ModelRegistry
from common.tracking import Tracker
from scripts.job import Job
from scripts.steps import prepare_data
from serve.application import deploy_endpoint, remove_endpoint, start_gateway
from tests.integration.conftest import TRACKING_PASSWORD
from tests.integration.test_promotions_at_once import promote_at_once
from tests.integration.test_sweep import run, runs_of
from tests.movers import RECIPE as MOVED
from tests.services import Gate, postgres, postgres_programs, tracking_server
from tests.small_job import small_job
from tests.tiny_model import build_engine
from tune.allocation import Allocation
from tune.promote import promote
from tune.run_writer import RunWriter
from tune.study import TrialRecord

PROGRAMS = postgres_programs()
DATABASE_PASSWORD = "d4t%b@se/s3cr3t"

pytestmark = [
    pytest.mark.skipif(PROGRAMS is None, reason="PostgreSQL is not installed (Debian's package postgresql)"),
    pytest.mark.usefixtures("credentials"),
]


@dataclass(frozen=True)
class Server:
    pid: int
    url: str
    log: Path
    gate: Gate


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    assert PROGRAMS is not None
    folder, gate = tmp_path_factory.mktemp("tracking"), Gate()
    with (
        postgres(PROGRAMS, DATABASE_PASSWORD) as database,
        tracking_server(database, folder, TRACKING_PASSWORD) as mlflow,
    ):
        gate.target_port = mlflow.port
        yield Server(mlflow.pid, f"http://{LOOPBACK}:{gate.port}", folder / "log", gate)
    gate.end()


def job_on(server: Server, folder: Path, *overrides: str) -> Job:
    return replace(small_job(folder, *overrides), tracking_uri=server.url)


def test_nobody_gets_in_without_a_password_and_a_stranger_is_told_how(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wr0ng-s3cr3t")
    with pytest.raises(TrackingError, match="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as refused:
        Tracker.open(server.url, "strangers")
    assert "s3cr3t" not in str(refused.value)


def test_a_user_reads_what_others_recorded_and_changes_what_is_his_own(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_the_admin = Tracker.open(server.url, "of the admin")
    run_id = of_the_admin.start("theirs")
    get_app_client("basic-auth", server.url).create_user("ann", "ann-has-a-s3cr3t")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "ann-has-a-s3cr3t")
    assert Tracker.open(server.url, "of the admin").find_runs({"mlflow.user": owner()}) == [run_id]
    with pytest.raises(TrackingError, match="403"):
        of_the_admin.log_metrics(run_id, {"loss": 1.0})
    own = Tracker.open(server.url, "of ann")
    own.log_metrics(own.start("hers"), {"loss": 1.0})


def test_only_the_names_of_the_server_are_answered_to(server: Server) -> None:
    search = f"{server.url}/api/2.0/mlflow/experiments/search?max_results=1"
    who = ("admin", TRACKING_PASSWORD)
    assert httpx.get(search, auth=who).status_code == 200
    assert httpx.get(search, auth=who, headers={"Host": "rebound.example"}).status_code == 403


def test_the_server_runs_no_code_of_others_and_shows_no_secret_among_its_processes(server: Server) -> None:
    parent = psutil.Process(server.pid)
    for process in (parent, *parent.children(recursive=True)):
        settings = process.environ()
        assert (
            settings["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == settings["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
        )
        assert "s3cr3t" not in " ".join(process.cmdline())


def test_a_trial_whose_run_was_begun_without_an_answer_has_one_run(server: Server) -> None:
    tracker = Tracker.open(server.url, "doubles")
    parent = tracker.start("sweep")
    ids: dict[str, str] = {}
    writer = RunWriter(tracker, parent, ids.__setitem__)
    server.gate.unanswered = b"POST /api/2.0/mlflow/runs/create"
    writer.start("trial-0", {"learning_rate": 0.1})
    writer.end("trial-0", "FINISHED")
    writer.close()
    assert server.gate.unanswered is None
    assert tracker.find_runs({"mlflow.parentRunId": parent}) == [ids["trial-0"]]


@pytest.mark.slow
def test_a_sweep_loses_nothing_when_the_server_is_away_for_a_while(
    cluster: Connection, server: Server, tmp_path: Path
) -> None:
    sweep_with_outage(server, tmp_path, away_s=4.0)


@pytest.mark.slow
def test_a_minute_without_the_server_loses_nothing(cluster: Connection, server: Server, tmp_path: Path) -> None:
    sweep_with_outage(server, tmp_path, away_s=60.0, name="minute")


def sweep_with_outage(server: Server, folder: Path, away_s: float, name: str = "small") -> None:
    job = job_on(server, folder, "search.num_trials=2", "search.scheduler=fifo", f"name={name}")
    back = threading.Timer(away_s, server.gate.open)

    def go_away(record: TrialRecord) -> None:
        if len(record.history) == 1 and not back.ident:
            server.gate.close()
            back.start()

    result = run(job, go_away, Allocation(1, 1, 0.0, max_concurrent=1))
    assert back.finished.is_set()
    runs = runs_of(job)
    assert {entry.info.status for entry in runs} == {"FINISHED"}
    assert Counter(entry.info.run_name for entry in runs) == {"sweep-1": 1, "trial-0": 1, "trial-1": 1}
    client = mlflow.MlflowClient(server.url)
    for trial in result.trials:
        logged = client.get_metric_history(trial.run_id or "", "accuracy")
        assert [(point.step, point.value) for point in logged] == [
            (epoch["epoch"], epoch["accuracy"]) for epoch in trial.history
        ]


@pytest.fixture(scope="module")
def registry(server: Server, tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    """Holds version 1 of `tracked` under the alias `champion`, its files on the server."""
    tracker = Tracker.open(server.url, "tracked")
    run_id = tracker.start("by-hand")
    tracker.client.log_artifacts(run_id, str(build_engine(tmp_path_factory.mktemp("engine"))), "onnx")
    tracker.client.create_registered_model("tracked")
    source = tracker.client.get_run(run_id).info.artifact_uri
    tracker.client.create_model_version("tracked", source, run_id)
    found = ModelRegistry(server.url)
    found.set_alias("tracked", "champion", 1)
    return found


def test_a_model_that_only_the_server_can_read_is_copied_to_the_storage(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    champion = registry.by_alias("tracked", "champion")
    assert champion.uri.startswith("mlflow-artifacts:")
    copy = registry.fetchable_uri(champion, str(tmp_path))
    assert Path(copy).is_relative_to(tmp_path)
    assert Classifier.load(Path(copy)).classify(["good good bad"])[0].label == "good"


@pytest.mark.slow
def test_an_endpoint_follows_the_server_with_the_credentials_of_its_cluster(
    registry: ModelRegistry, cluster: Connection
) -> None:
    assert cluster.record is not None
    gateway = start_gateway(LOOPBACK, free_port())
    recipe = Recipe.model_validate(
        {"name": "tracked", "data": {"source": "unused.csv"}, "model": {"base": "unused"}, "serve": {"auth": "none"}}
    )
    deploy_endpoint(recipe, tracking_uri=registry.tracking_uri, storage=cluster.record.storage, code_uri=None)
    try:
        answer = httpx.post(f"{gateway}/tracked/classify", json={"texts": ["good"]}, timeout=90).json()
        assert answer["version"] == 1
        assert answer["predictions"][0]["label"] == "good"
    finally:
        remove_endpoint("tracked")


@pytest.mark.slow
def test_a_winner_is_promoted_and_its_model_is_on_the_server(
    cluster: Connection, server: Server, tmp_path: Path
) -> None:
    job = job_on(server, tmp_path, "search.num_trials=1", "train.epochs=1", "name=promoted")
    best = run(job).best
    tracker = Tracker.open(server.url, job.recipe.experiment)
    assert best.checkpoint is not None
    assert best.run_id is not None
    told = promote(
        job.recipe, prepare_data(job), best.checkpoint, tracker, best.run_id, job.recipe_yaml, job.storage, "champion"
    )
    found = ModelRegistry(server.url)
    version = found.by_version("promoted", told.version)
    folder = found.download(version, "", tmp_path / "downloaded")
    assert {path.name for path in (folder / "onnx").iterdir()} >= {"model.onnx", "tokenizer.json", "labels.json"}


@pytest.mark.slow
def test_of_promotions_at_once_on_the_server_each_is_judged_against_the_champion_before_it(
    server: Server, tmp_path: Path
) -> None:
    Tracker.open(server.url, "shared").client.create_registered_model(MOVED.name)
    promote_at_once(server.url, tmp_path)


def test_the_servers_log_holds_no_password(server: Server) -> None:
    assert "s3cr3t" not in server.log.read_text()
