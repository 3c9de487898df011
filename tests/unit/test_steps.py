"""The steps up to the registry, as far as they go without a cluster."""

from contextlib import nullcontext
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tune.promote
import tune.trainer
from common.errors import DataError, InputError
from common.machines import Node, Resources
from common.recipe import Recipe
from common.storage import read_json
from common.tokenised import PreparedData
from common.tracking import Tracker
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

    def log_metrics(self, run_id: str, metrics: dict[str, float], step: int) -> None: ...


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs, number = Runs(), count(1)
    monkeypatch.setattr(Job, "new_run", lambda job, kind: f"{job.recipe.name}-{kind}-{next(number)}")
    prepared = SimpleNamespace(uri="/prepared", data_digest="digest", num_rows={})
    monkeypatch.setattr(Tracker, "open", lambda uri, experiment: runs)
    monkeypatch.setattr(steps, "connect", lambda: nullcontext(SimpleNamespace(is_private=True)))
    monkeypatch.setattr(steps, "resources", lambda: MACHINE)
    monkeypatch.setattr(steps, "load_splits", lambda data: SimpleNamespace(labels=("bearish", "bullish")))
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


def test_a_finished_training_is_not_continued(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small_job(tmp_path)
    train(job, monkeypatch)
    train(job, monkeypatch)
    assert runs.states == {"run-0": ["RUNNING", "FINISHED"], "run-1": ["RUNNING", "FINISHED"]}
