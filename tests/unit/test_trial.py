"""One trial, with Tune's side of it faked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray.tune
import torch

from common.recipe import Train
from tests.training_data import prepared_data, write_base_model, write_data
from tune import trial
from tune.allocation import Allocation
from tune.checkpoint import seal
from tune.group_exchange import GroupTask
from tune.study import FAILURE, GROUP_CHECKPOINT, NOT_STORED
from tune.train_loop import TrainLoopConfig
from tune.trial import NOTE_FILE, TrialTask, run_trial

SUGGESTED = {"name": "trial-4", "params": {"learning_rate": 0.01}, "resume_from": []}
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

    monkeypatch.setattr(trial, "free_memory", lambda: None)  # takes a second in a large process
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


@pytest.fixture
def run_group(prepared_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[GroupTask]]:
    """Runs a trial of two workers that stores a checkpoint with each of these accuracies; returns the group's task."""

    def run(*accuracies: float, **changes: Any) -> list[GroupTask]:
        tasks: list[GroupTask] = []

        def train_in_group(task: GroupTask, settings: Train, allocation: Allocation, path: str, on_report: Any) -> None:
            tasks.append(task)
            for number, accuracy in enumerate(accuracies, start=1):
                folder = Path(task.folder) / f"epoch-{number:04d}"
                folder.mkdir(parents=True)
                on_report({"epoch": number, "accuracy": accuracy}, str(folder))

        monkeypatch.setattr(trial, "train_in_group", train_in_group)
        settings = Train(epochs=4, num_workers=2)
        task = TrialTask(prepared_uri, settings, None, "accuracy", Allocation(2, 1, 0.0, 1), str(tmp_path / "groups"))
        run_trial(SUGGESTED | changes, task)
        return tasks

    return run


def test_an_epoch_of_a_group_is_reported_with_where_its_checkpoint_is(
    run_group: Callable[..., list[GroupTask]], reports: Reports, tmp_path: Path
) -> None:
    run_group(0.5)
    assert [metrics for metrics, _ in reports] == [
        {"epoch": 1, "accuracy": 0.5, GROUP_CHECKPOINT: str(tmp_path / "groups" / "trial-4" / "epoch-0001")}
    ]


def test_of_a_groups_checkpoints_the_best_the_best_before_and_the_newest_are_kept(
    run_group: Callable[..., list[GroupTask]], reports: Reports, tmp_path: Path
) -> None:
    run_group(0.4, 0.5, 0.9, 0.6, 0.7)
    kept = {folder.name for folder in (tmp_path / "groups" / "trial-4").iterdir()}
    assert kept == {"epoch-0002", "epoch-0003", "epoch-0005"}


@pytest.mark.parametrize("restarted", [False, True])
def test_a_group_goes_on_from_its_newest_checkpoint(
    restarted: bool,
    run_group: Callable[..., list[GroupTask]],
    reports: Reports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a trial that Tune itself restarts, Tune has a note of a newer one."""
    for name in ("resumed", "restarted", "note"):
        (tmp_path / name).mkdir()
        seal(tmp_path / name)
    (tmp_path / "note" / NOTE_FILE).write_text(str(tmp_path / "restarted"))
    if restarted:
        monkeypatch.setattr(ray.tune, "get_checkpoint", lambda: ray.tune.Checkpoint(str(tmp_path / "note")))
    (task,) = run_group(resume_from=[str(tmp_path / "resumed")])
    assert task.resume_from == str(tmp_path / ("restarted" if restarted else "resumed"))


def test_a_checkpoint_that_is_not_whole_is_passed_over_in_a_group_too(
    run_group: Callable[..., list[GroupTask]], reports: Reports, tmp_path: Path
) -> None:
    for name in ("torn", "whole"):
        (tmp_path / name).mkdir()
    seal(tmp_path / "whole")
    (task,) = run_group(resume_from=[str(tmp_path / "torn"), str(tmp_path / "whole")])
    assert task.resume_from == str(tmp_path / "whole")
