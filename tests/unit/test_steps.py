"""The steps up to the registry, as far as they go without a cluster."""

from contextlib import nullcontext
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tune.promote
import tune.trainer
from common.errors import DataError, InputError, TrackingError
from common.machines import Node, Resources
from common.recipe import Recipe
from common.storage import read_json
from common.tokenised import PreparedData
from common.tracking import Tracker
from common.tracking_settings import Wandb
from common.wandb_runs import WandbOutcome
from scripts import plan, steps
from scripts.job import Job
from tests.small_job import small_job
from tune.promote import Promotion
from tune.trainer import TrainResult

MACHINE = Resources((Node(num_cpus=2, num_gpus=0),))
EPOCH = dict.fromkeys(("train_loss", "loss", "accuracy", "macro_f1", "tokens_per_s", "samples_per_s"), 0.5)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(plan, "this_machine", lambda: MACHINE)


def test_check_tells_rows_labels_findings_and_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    job = small_job(tmp_path)

    checked = steps.check(job)

    rows, plan = checked["rows"], checked["plan"]
    assert sum(rows.values()) == 400
    assert set(checked["labels"]) == {"bearish", "bullish", "neutral"}
    assert sum(checked["labels"].values()) == rows["train"]
    assert "truncation" in {finding["check"] for finding in checked["findings"]}
    assert (plan["trials"], plan["epochs_per_trial"], plan["max_concurrent"], plan["cpus_per_worker"]) == (3, 2, 2, 1)
    assert plan["steps_per_trial"] == 2 * -(-rows["train"] // job.recipe.train.batch_size)
    assert plan["storage"] == job.storage
    assert not Path(job.storage).exists()


@pytest.mark.parametrize("severity", ["warning", "info"])
def test_a_finding_below_an_error_stops_nothing(severity: str, tmp_path: Path) -> None:
    finding = {"severity": severity, "message": "rows repeat", "advice": "remove them"}
    steps.refuse_errors(small_job(tmp_path), {"findings": [finding]})


def test_an_error_is_refused_with_the_data_and_the_way_out(tmp_path: Path) -> None:
    finding = {"severity": "error", "message": "rows leak", "advice": "remove them"}
    with pytest.raises(DataError, match=r"headlines\.csv: rows leak; remove them"):
        steps.refuse_errors(small_job(tmp_path), {"findings": [finding]})


def test_nothing_to_promote_says_what_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no finished sweep or training of 'small'; run `tuneserve sweep`"):
        steps.promote(small_job(tmp_path))


def test_a_winner_is_promoted_as_it_was_trained_and_registered_as_the_recipe_says_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = small_job(tmp_path, "train.warmup_ratio=0.3", "registry.model=before")
    run = {
        "sweep_id": "small-sweep-1",
        "recipe": trained.recipe.model_dump(mode="json", by_alias=True, exclude_none=True),
        "prepared_uri": "/prepared",
        "best": {"params": {"batch_size": 16}, "checkpoint": "/checkpoint", "run_id": "run"},
    }
    judged: list[Recipe] = []

    def promote(recipe: Recipe, prepared: str, *, checkpoint: str, run_id: str, **others: Any) -> Promotion:
        judged.append(recipe)
        assert (prepared, checkpoint, run_id) == ("/prepared", "/checkpoint", "run")
        gate = {"rows": 9, "test_split_uses": 0, "reason": "the first"}
        return Promotion(recipe.registered_model, 1, True, {"accuracy": 0.9, "macro_f1": 0.9}, gate)

    monkeypatch.setattr(tune.promote, "promote", promote)
    monkeypatch.setattr(PreparedData, "load", lambda uri: uri)
    monkeypatch.setattr(Tracker, "open", lambda uri, experiment: None)

    result = steps.promote(small_job(tmp_path, "train.warmup_ratio=0.5", "registry.model=now"), run)

    assert (result["model"], result["version"], result["promoted"]) == ("now", 1, True)
    assert (judged[0].train.warmup_ratio, judged[0].train.batch_size) == (0.3, 16)


class Runs:
    """A tracker that keeps each run's states."""

    def __init__(self) -> None:
        self.states: dict[str, list[str]] = {}

    def start(self, name: str, **content: Any) -> str:
        run_id = f"run-{len(self.states)}"
        self.states[run_id] = ["RUNNING"]
        return run_id

    def reopen(self, run_id: str) -> None:
        self.states[run_id].append("RUNNING")

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        self.states[run_id].append(status)

    def log(self, run_id: str, *, metrics: list[Any]) -> None: ...

    def logged_steps(self, run_id: str, metric: str) -> set[int]:
        return set()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs, number = Runs(), count(1)
    monkeypatch.setattr(Job, "new_run", lambda job, kind: f"{job.recipe.name}-{kind}-{next(number)}")
    prepared = SimpleNamespace(uri="/prepared", data_digest="digest", num_rows={})
    monkeypatch.setattr(Tracker, "open", lambda uri, experiment: runs)
    monkeypatch.setattr(steps, "connect", lambda: nullcontext(SimpleNamespace(is_private=True)))
    monkeypatch.setattr(steps, "resources", lambda: MACHINE)
    splits = SimpleNamespace(versions={}, labels=("bearish", "bullish"))
    monkeypatch.setattr(steps, "load_pinned_splits", lambda data, storage: splits)
    monkeypatch.setattr(steps, "prepare", lambda *_: prepared)
    return runs


def train(job: Job, monkeypatch: pytest.MonkeyPatch, end: BaseException | None = None) -> str:
    """Trains one epoch, which ends as given; returns the name of Ray Train's run."""
    names = []

    def fit(*_: object, run_name: str, on_report: Any, **settings: object) -> TrainResult:
        names.append(run_name)
        on_report({"epoch": 1, **EPOCH})
        if end:
            raise end
        return TrainResult({"epoch": 1, **EPOCH}, "/checkpoint", (), 1.0)

    monkeypatch.setattr(tune.trainer, "fit", fit)
    if end:
        with pytest.raises(type(end)):
            steps.train(job)
    else:
        steps.train(job)
    return names[0]


@pytest.mark.parametrize(("end", "status"), [(KeyboardInterrupt(), "KILLED"), (ValueError("a defect"), "FAILED")])
def test_a_training_that_was_cut_off_is_continued_in_its_run_and_then_finished(
    end: BaseException, status: str, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small_job(tmp_path)

    name = train(job, monkeypatch, end)
    assert runs.states == {"run-0": ["RUNNING", status]}

    assert train(job, monkeypatch) == name
    assert runs.states == {"run-0": ["RUNNING", status, "RUNNING", "FINISHED"]}
    assert read_json(f"{job.runs}/{name}/result.json")["best"]["checkpoint"] == "/checkpoint"
    assert [run["train_id"] for run in job.finished_runs()] == [name]


def test_a_training_goes_on_without_wandb_and_says_in_its_result_what_it_has_not(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[Any, ...]] = []

    class Refusing:
        def __init__(self, settings: Wandb, folder: Path, group: str, tags: list[str], config: dict[str, Any]) -> None:
            told.append((settings.project, folder, group, tags))
            told.append((config["recipe"]["name"], config["data_sha256"], config["learning_rate"]))

        def start(self, name: str, *, job_type: str, config: dict[str, Any]) -> None:
            told.append((name, job_type, config))

        def log(self, name: str, metrics: dict[str, float], step: int) -> None:
            told.append((name, step))

        def end(self, name: str, *, failed: bool) -> None:
            told.append((name, failed))

        def close(self) -> WandbOutcome:
            return WandbOutcome(1, None, ("small-train-1",), "401: wrong key", "/kept")

    monkeypatch.setattr("scripts.wandb_tracking.WandbRuns", Refusing)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    job = small_job(tmp_path, "tracking.wandb.project=spam")
    name = train(job, monkeypatch)

    assert told == [
        ("spam", Path(job.storage), name, ["digest"]),
        ("small", "digest", job.recipe.train.learning_rate),
        (name, "train", {}),
        (name, 1),
        (name, False),
    ]
    result = read_json(f"{job.runs}/{name}/result.json")
    assert (result["wandb"]["not_tracked"], result["wandb"]["reason"]) == (["small-train-1"], "401: wrong key")
    assert "1 of 1 runs (small-train-1): 401: wrong key" in capsys.readouterr().err
    assert runs.states == {"run-0": ["RUNNING", "FINISHED"]}


@pytest.mark.parametrize("command", [steps.check, steps.train, steps.sweep])
def test_wandb_without_a_key_is_refused_before_anything_starts(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(steps, "load_pinned_splits", lambda *_: pytest.fail("the data were read"))
    with pytest.raises(TrackingError, match="set WANDB_API_KEY"):
        command(small_job(tmp_path, "tracking.wandb.project=spam"))


@pytest.mark.parametrize("asked", [True, False])
def test_the_system_is_measured_for_a_training_if_the_recipe_asks_for_it(
    asked: bool, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    monkeypatch.setattr(steps, "system_metrics", lambda tracker, run_id: measured.append(run_id) or nullcontext())
    train(small_job(tmp_path, f"tracking.system_metrics={str(asked).lower()}"), monkeypatch)
    assert measured == ["run-0"] * asked


def test_a_finished_training_is_not_continued(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small_job(tmp_path)
    train(job, monkeypatch)
    train(job, monkeypatch)
    assert runs.states == {"run-0": ["RUNNING", "FINISHED"], "run-1": ["RUNNING", "FINISHED"]}
