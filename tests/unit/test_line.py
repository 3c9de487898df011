"""`run` repeats no step that was finished, and starts nothing that cannot succeed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import DataError, PromotionError, TrackingError, TrainingError
from common.location import join
from common.recipe_file import shipped_recipes
from common.storage import write_json
from scripts import line
from scripts.job import Job

BEFORE = ["check", "tracking", "gateway"]


@dataclass
class Steps:
    """The steps, faked: what was started in which order, and how each ends."""

    started: list[str] = field(default_factory=list)
    findings: list[dict[str, str]] = field(default_factory=list)
    tracking_error: Exception | None = None
    sweep_error: BaseException | None = None
    winner: str = "winner"
    promoted: bool = True

    def check(self, job: Job) -> dict[str, Any]:
        self.started.append("check")
        return {"findings": self.findings}

    def open_tracker(self, uri: str, experiment: str) -> None:
        self.started.append("tracking")
        if self.tracking_error:
            raise self.tracking_error

    def up_gateway(self, storage: str, tracking_uri: str) -> None:
        self.started.append("gateway")

    def sweep(self, job: Job, *, sweep_id: str) -> None:
        self.started.append(sweep_id)
        if self.sweep_error:
            raise self.sweep_error
        result = {"sweep_id": sweep_id, "trials": [], "best": {"run_id": self.winner}, "seconds": 1.0}
        recipe = {"recipe": job.recipe.model_dump(mode="json"), "num_trials": job.recipe.search.num_trials}
        write_json(join(job.runs, sweep_id, "result.json"), {**result, **recipe})

    def promote(self, job: Job, run: dict[str, Any]) -> dict[str, Any]:
        self.started.append(f"promote {run['best']['run_id']}")
        return {"model": "quickstart", "version": 1, "promoted": self.promoted, "gate": {"reason": "too weak"}}

    def deploy(self, job: Job) -> dict[str, Any]:
        self.started.append("deploy")
        return {"version": 1}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Steps:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    steps, number = Steps(), count(1)
    monkeypatch.setattr(Job, "new_run", lambda job, kind: f"{kind}-{next(number)}")
    for name in ("check", "up_gateway", "sweep", "promote", "deploy"):
        monkeypatch.setattr(line, name, getattr(steps, name))
    monkeypatch.setattr(line, "Tracker", SimpleNamespace(open=steps.open_tracker))
    monkeypatch.setattr(line, "prepare_data", lambda job: SimpleNamespace(data_digest="digest"))
    monkeypatch.setattr(line, "in_job", lambda: False)
    return steps


@pytest.fixture
def run(steps: Steps, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs the line with overrides; tells what it started after what every run starts with."""

    def run(*overrides: str) -> list[str]:
        steps.started.clear()
        storage = str(tmp_path / "storage")
        line.run(Job.load(str(shipped_recipes()["quickstart"]), overrides, storage, None))
        assert steps.started[:3] == BEFORE
        return steps.started[3:]

    return run


def fail(steps: Steps, run: Callable[..., list[str]], error: BaseException) -> None:
    steps.sweep_error = error
    with pytest.raises(type(error)):
        run()
    steps.sweep_error = None


def test_a_finished_run_repeats_neither_sweep_nor_promotion(run: Callable[..., list[str]]) -> None:
    assert run() == ["sweep-1", "promote winner", "deploy"]
    assert run() == ["deploy"]


def test_more_trials_continue_the_same_sweep_and_fewer_start_none(run: Callable[..., list[str]], steps: Steps) -> None:
    run("search.num_trials=3")
    steps.winner = "better"
    assert run("search.num_trials=5") == ["sweep-1", "promote better", "deploy"]
    assert run("search.num_trials=4") == ["deploy"]


def test_an_interrupted_sweep_is_continued(run: Callable[..., list[str]], steps: Steps) -> None:
    fail(steps, run, KeyboardInterrupt())
    assert run() == ["sweep-1", "promote winner", "deploy"]


def test_a_sweep_in_which_everything_failed_is_not_continued(run: Callable[..., list[str]], steps: Steps) -> None:
    fail(steps, run, TrainingError("all trials failed"))
    assert run() == ["sweep-2", "promote winner", "deploy"]


def test_other_settings_of_a_trial_are_another_sweep(run: Callable[..., list[str]]) -> None:
    run()
    assert run("train.epochs=9") == ["sweep-2", "promote winner", "deploy"]


def test_other_settings_of_the_registry_promote_anew(run: Callable[..., list[str]]) -> None:
    run()
    assert run("registry.gate.minimum=0.5") == ["promote winner", "deploy"]


def test_a_candidate_that_did_not_pass_is_an_error_when_there_is_no_champion(
    run: Callable[..., list[str]], steps: Steps
) -> None:
    steps.promoted = False
    with pytest.raises(PromotionError, match=r"no champion to serve instead: too weak\. Change the gate"):
        run()
    assert steps.started[-1] == "promote winner"


def test_the_champion_is_deployed_when_the_candidate_did_not_pass(
    run: Callable[..., list[str]], steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "ModelRegistry", lambda uri: SimpleNamespace(by_alias=lambda name, alias: "champion"))
    steps.promoted = False
    assert run()[-1] == "deploy"


def test_an_error_in_the_data_stops_before_anything_is_started(run: Callable[..., list[str]], steps: Steps) -> None:
    steps.findings = [{"severity": "error", "message": "rows leak", "advice": "remove them"}]
    with pytest.raises(DataError, match="rows leak; remove them"):
        run()
    assert steps.started == ["check"]


def test_a_tracking_server_that_does_not_answer_stops_before_a_cluster_is_started(
    run: Callable[..., list[str]], steps: Steps
) -> None:
    steps.tracking_error = TrackingError("does not answer")
    with pytest.raises(TrackingError):
        run()
    assert "gateway" not in steps.started


def test_a_job_starts_no_local_gateway(
    run: Callable[..., list[str]], steps: Steps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(line, "in_job", lambda: True)
    line.run(Job.load(str(shipped_recipes()["quickstart"]), (), str(tmp_path / "storage"), None))
    assert steps.started == ["check", "tracking", "sweep-1", "promote winner", "deploy"]
