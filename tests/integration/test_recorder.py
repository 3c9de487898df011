"""Many trials on one SQLite database: no lock error reaches a sweep, and nothing is lost or doubled."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.recipe import Range, Search
from common.tracking import Tracker, sqlite_uri
from tune.recorder import TrialRecorder
from tune.study import StudySearch, journal

NUM_SWEEPS = 4
TRIALS_OF_A_SWEEP = 25
EPOCHS = 3


def epoch(number: int) -> dict[str, float]:
    return {"epoch": number, "accuracy": number / 10, "loss": 1.0}


def record_a_sweep(number: int, storage: Path) -> str:
    """Records a sweep whose trials all run at once, as its driver would; returns the parent run's id."""
    search = Search(space={"learning_rate": Range(log_uniform=(1e-5, 1e-3))}, seed=number)
    study = StudySearch(search, name="s", storage=journal(storage / f"{number}.journal"), epochs=EPOCHS)
    tracker = Tracker.open(sqlite_uri(str(storage)), "headlines")  # its own connections, as each driver has
    parent = tracker.start(f"sweep-{number}")
    recorder = TrialRecorder(study, tracker, parent, lambda record: None)
    trials: list[Any] = [SimpleNamespace(trial_id=str(n), last_result={}) for n in range(TRIALS_OF_A_SWEEP)]
    for trial in trials:
        study.suggest(trial.trial_id)
        recorder.on_trial_start(0, [], trial)
    for number in range(1, EPOCHS + 1):
        for trial in trials:
            trial.last_result = epoch(number)
            recorder.on_trial_result(0, [], trial, trial.last_result)
    for trial in trials:
        study.on_trial_complete(trial.trial_id, trial.last_result)
        recorder.on_trial_complete(0, [], trial)
    recorder.close("FINISHED")
    return parent


def test_a_hundred_trials_reporting_at_once_make_a_hundred_complete_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(NUM_SWEEPS) as drivers:
        parents = list(drivers.map(lambda number: record_a_sweep(number, tmp_path), range(NUM_SWEEPS)))
    assert "locked" not in caplog.text
    client = Tracker.open(sqlite_uri(str(tmp_path)), "headlines").client
    experiment = client.get_experiment_by_name("headlines")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == len(children) + len(parents)
    assert len(children) == NUM_SWEEPS * TRIALS_OF_A_SWEEP == 100
    assert {(run.info.status, *run.data.params) for run in children} == {("FINISHED", "learning_rate")}
    for run in children:
        history = client.get_metric_history(run.info.run_id, "accuracy")
        assert [point.step for point in history] == [1, 2, 3]
