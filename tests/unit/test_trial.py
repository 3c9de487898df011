"""One trial, with Tune's side of it faked."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.tune
import torch

from common.recipe import Train
from tests.training_data import prepared_data, write_base_model, write_data
from tune import trial
from tune.allocation import Allocation
from tune.checkpoint import seal
from tune.study import FAILURE, GROUP_CHECKPOINT, NOT_STORED
from tune.train_loop import TrainLoopConfig
from tune.trainer import TrainResult
from tune.trial import TrialTask, run_trial

SUGGESTED = {"name": "trial-4", "params": {"learning_rate": 0.01}, "resume_from": [], "reported_epochs": []}
Reports = list[tuple[dict[str, Any], str | None]]


@pytest.fixture(scope="module")
def prepared_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("trial")
    torch.manual_seed(0)
    return prepared_data(write_data(folder / "data"), write_base_model(folder / "base")).uri


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Reports:
    """What Tune was told, each with its checkpoint's folder."""
    reports: Reports = []

    def report(metrics: dict[str, Any], checkpoint: Any = None) -> None:
        reports.append((metrics, checkpoint and checkpoint.path))

    monkeypatch.setattr(
        trial, "gc", SimpleNamespace(collect=lambda: 0, get_freeze_count=lambda: 1)
    )  # takes a second in a large process
    monkeypatch.setattr(ray.tune, "report", report)
    monkeypatch.setattr(ray.tune, "get_checkpoint", lambda: None)
    return reports


@pytest.fixture
def run(prepared_uri: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Runs a trial of one worker whose training does what it is told; returns what that was called with."""

    def run(training: Callable[..., None] = lambda report: None, **changes: Any) -> list[Any]:
        called: list[Any] = []

        def train(config: TrainLoopConfig, report: Any, folder: Path | None) -> None:
            called.extend((config, folder))
            training(report)

        monkeypatch.setattr(trial, "train", train)
        task = TrialTask(prepared_uri, Train(epochs=7), None, "accuracy", Allocation(1, 2, 0.0, 1), "/groups")
        run_trial(SUGGESTED | changes, task)
        return called

    return run


def test_suggested_settings_replace_the_recipes(run: Callable[..., list[Any]], reports: Reports) -> None:
    config, folder = run()
    assert (config.learning_rate, config.epochs, config.num_threads, folder) == (0.01, 7, 2, None)


def test_an_epoch_is_reported_with_its_checkpoint(
    run: Callable[..., list[Any]], reports: Reports, tmp_path: Path
) -> None:
    run(lambda report: report({"epoch": 1}, tmp_path))
    assert reports == [({"epoch": 1}, str(tmp_path))]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_trial_goes_on_from_its_newest_checkpoint(
    restarted: bool, run: Callable[..., list[Any]], reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Tune itself restarts a trial, its checkpoint is newer than the one that the trial was resumed from."""
    for name in ("resumed", "restarted"):
        (tmp_path / name).mkdir()
        seal(tmp_path / name)
    if restarted:
        newest = ray.tune.Checkpoint(str(tmp_path / "restarted"))
        monkeypatch.setattr(ray.tune, "get_checkpoint", lambda: newest)
    _, folder = run(resume_from=[str(tmp_path / "resumed")])
    assert folder == tmp_path / ("restarted" if restarted else "resumed")


def test_a_training_that_fails_is_reported_with_its_reason_and_not_raised(
    run: Callable[..., list[Any]], reports: Reports
) -> None:
    def diverge(report: Any) -> None:
        raise FloatingPointError("the loss is nan\nand more")

    run(diverge)
    assert reports == [({FAILURE: "FloatingPointError: the loss is nan"}, None)]


def test_a_checkpoint_that_cannot_be_stored_is_no_failure_of_the_trial(
    run: Callable[..., list[Any]], reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(metrics: dict[str, Any], checkpoint: Any = None) -> None:
        if checkpoint is not None:
            raise OSError(28, "No space left on device")
        reports.append((metrics, None))

    monkeypatch.setattr(ray.tune, "report", report)
    run(lambda report: report({"epoch": 1}, tmp_path))
    assert reports == [({NOT_STORED: "[Errno 28] No space left on device"}, None)]


def test_suggested_settings_that_cannot_work_are_reported_too(run: Callable[..., list[Any]], reports: Reports) -> None:
    assert run(params={"batch_size": 0}) == []
    assert list(reports[0][0]) == [FAILURE]


def test_an_interruption_is_no_failure_of_the_trial(run: Callable[..., list[Any]], reports: Reports) -> None:
    def interrupt(report: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupt)
    assert reports == []


@pytest.mark.parametrize("trained_on", [False, True])
def test_a_group_reports_every_epoch_once_and_names_only_checkpoints_that_are_kept(
    trained_on: bool, prepared_uri: str, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four epochs an earlier driver reported the first; the third is the best, and the last may be new."""
    history = tuple({"epoch": epoch} for epoch in range(1, 5))

    def fit(*_: object, on_report: Any, run_name: str, storage_path: str, **settings: object) -> TrainResult:
        assert (run_name, storage_path) == ("trial-4", "/groups")
        if trained_on:
            on_report(history[3])
        return TrainResult(history[2], "/groups/trial-4/epoch-0003", history, 1.0)

    monkeypatch.setattr(trial, "fit", fit)
    task = TrialTask(
        prepared_uri, Train(epochs=4, num_workers=2), None, "accuracy", Allocation(2, 1, 0.0, 1), "/groups"
    )
    run_trial(SUGGESTED | {"reported_epochs": [1]}, task)

    last = (4, "/groups/trial-4/epoch-0004")
    stored = [(2, None), (3, "/groups/trial-4/epoch-0003")]
    expected = [last, *stored] if trained_on else [*stored, last]
    assert [(metrics["epoch"], metrics.get(GROUP_CHECKPOINT)) for metrics, _ in reports] == expected
