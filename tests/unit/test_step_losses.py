"""The training loss of single steps, from the loop to MLflow."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from common.tracking import MetricsAtStep
from scripts.training_log import TrainingLog
from scripts.wandb_tracking import WandbTracking
from tests.small_job import small_job
from tests.training_data import loop_settings, write_base_model, write_data
from tune.identity import refuse_changes
from tune.step_losses import STEP_LOSS, StepLosses, of_the_epoch, step_losses
from tune.study import StudySearch, journal
from tune.train_loop import TrainLoopConfig, history_of, train


def test_each_point_is_the_mean_since_the_point_before() -> None:
    losses = StepLosses(every=2)
    assert [step for step in range(1, 7) if losses.is_due(step)] == [2, 4, 6]
    losses.add(2, loss=8.0, num_texts=4)
    losses.add(4, loss=10.0, num_texts=5)

    report = {"epoch": 1.0, "train_loss": 2.0, **losses.entries}
    assert step_losses(report) == {2: 2.0, 4: 2.0}
    assert of_the_epoch(report) == {"epoch": 1.0, "train_loss": 2.0}
    assert not any(StepLosses(every=0).is_due(step) for step in range(200))


EPOCH = dict.fromkeys(("train_loss", "loss", "accuracy", "macro_f1", "tokens_per_s", "samples_per_s"), 0.5)


def report(epoch: int, losses: dict[int, float]) -> dict[str, float]:
    measured, total = StepLosses(every=5), 0.0
    for num_texts, (step, loss) in enumerate(losses.items(), start=1):
        total += loss
        measured.add(step, total, num_texts)
    return {"epoch": epoch, **EPOCH, **measured.entries}


class FakeTracker:
    """Notes each metric with its step and value."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, float]] = []

    def log(self, run_id: str, *, metrics: list[MetricsAtStep]) -> None:
        self.seen += [(name, at.step, value) for at in metrics for name, value in at.values.items()]

    def logged_steps(self, run_id: str, metric: str) -> set[int]:
        return {step for name, step, _ in self.seen if name == metric}


def training_log(tracker: Any, *, is_continued: bool = False) -> TrainingLog:
    return TrainingLog(tracker, "run", WandbTracking("train"), is_continued=is_continued)


def test_a_training_records_its_steps_beside_its_epochs() -> None:
    tracker = FakeTracker()
    training_log(tracker).epoch(report(1, {5: 0.9, 10: 0.7}))
    assert tracker.seen == [
        ("epoch", 1, 1),
        *((name, 1, 0.5) for name in EPOCH),
        (STEP_LOSS, 5, 0.9),
        (STEP_LOSS, 10, pytest.approx(0.7)),
    ]


def test_an_epoch_that_is_trained_again_records_no_step_twice() -> None:
    tracker = FakeTracker()
    log = training_log(tracker)
    log.epoch(report(1, {5: 0.9, 10: 0.7}))
    log.epoch(report(1, {5: 0.8, 10: 0.6}))  # after a lost checkpoint
    continued = training_log(tracker, is_continued=True)  # by another process
    continued.epoch(report(1, {5: 0.7, 10: 0.5, 15: 0.4}))
    assert [(step, value) for name, step, value in tracker.seen if name == STEP_LOSS] == [
        (5, 0.9),
        (10, pytest.approx(0.7)),
        (15, pytest.approx(0.4)),
    ]


def trained(config: TrainLoopConfig, keep: Path, resume_from: Path | None = None) -> list[dict[str, float]]:
    """The reports of all epochs; `keep` gets their checkpoints."""
    reports: list[dict[str, float]] = []

    def report(metrics: dict[str, float], folder: Path | None) -> None:
        reports.append(metrics)
        assert folder is not None
        shutil.copytree(folder, keep / str(int(metrics["epoch"])))

    train(config, report, resume_from)
    return reports


def test_the_loop_reports_the_same_steps_whether_or_not_it_was_interrupted(tmp_path: Path) -> None:
    base = write_base_model(tmp_path / "base", dropout=0.1)
    config = loop_settings(write_data(tmp_path / "data"), base, logging_steps=2)
    whole = trained(config, tmp_path / "whole")
    rest = trained(config, tmp_path / "rest", resume_from=tmp_path / "whole" / "1")

    assert [list(step_losses(report)) for report in whole] == [[2, 4], [6, 8, 10], [12, 14]]  # of 5 steps an epoch
    assert [step_losses(report) for report in rest] == [step_losses(report) for report in whole[1:]]
    assert not any(step_losses(report) for report in history_of(tmp_path / "rest" / "3"))


def test_the_steps_of_an_epoch_have_its_mean(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", num_train=64)  # 4 whole batches
    config = loop_settings(data, write_base_model(tmp_path / "base"), epochs=1, logging_steps=1)
    (report,) = trained(config, tmp_path / "kept")
    losses = step_losses(report).values()
    assert len(set(losses)) == 4
    assert sum(losses) / 4 == pytest.approx(report["train_loss"])


def test_logging_makes_no_other_sweep_or_training_of_it(tmp_path: Path) -> None:
    usual, other = small_job(tmp_path), small_job(tmp_path, "train.logging_steps=7")
    assert usual.sweep_key("d") == other.sweep_key("d")
    search = StudySearch(usual.recipe.search, name="sweep", storage=journal(tmp_path / "study.journal"), epochs=2)
    refuse_changes(search, usual.recipe, "d", usual.storage)
    refuse_changes(search, other.recipe, "d", other.storage)
