"""A sweep is read as it lies, by anybody, and stays as it is."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from optuna.trial import TrialState

from common.errors import InputError
from common.recipe import Range
from common.storage import write_bytes
from tests.stored_sweeps import RECIPE, SWEEP_ID, Trained, asha_trials, stored, write_sweep
from tune.stored_sweep import load_sweep
from tune.study import StudySearch, journal, stored_study


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))


def test_reading_changes_nothing(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, [Trained((0.5,), TrialState.RUNNING)])
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.rglob("*") if file.is_file()}
    load_sweep(str(tmp_path / "runs"), SWEEP_ID)
    after = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.rglob("*") if file.is_file()}
    assert path in before
    assert after == before


def test_a_study_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert stored_study(tmp_path / "none" / "study.journal", SWEEP_ID) is None
    assert list(tmp_path.iterdir()) == []
    path = write_sweep(tmp_path, [])
    assert stored_study(path, "another") is None


def test_a_line_that_is_being_written_does_not_disturb(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, [Trained((0.5,), TrialState.RUNNING)])
    with path.open("a") as file:
        file.write('{"op_code": 8, "worker')
    assert len(load_sweep(str(tmp_path / "runs"), SWEEP_ID).trials) == 1


def test_a_stored_study_holds_what_its_searcher_holds(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, asha_trials(5))
    search = StudySearch(RECIPE.search, name=SWEEP_ID, storage=journal(path), epochs=4)
    study = stored_study(path, SWEEP_ID)
    assert study is not None
    assert list(study.trials) == search.records()


def test_a_sweep_is_unfinished_until_its_result_is_there_and_nothing_runs(tmp_path: Path) -> None:
    trials = [Trained((0.5, 0.6, 0.7, 0.8))]
    sweep = stored(tmp_path, trials)
    assert not sweep.is_finished
    assert sweep.recipe == RECIPE
    result = tmp_path / "runs" / SWEEP_ID / "result.json"
    result.write_text(json.dumps({"recipe": {}, "trials": [], "prepared_uri": "/elsewhere"}))
    assert load_sweep(str(tmp_path / "runs"), SWEEP_ID).is_finished
    shutil.rmtree(tmp_path / "runs")
    write_sweep(tmp_path, [*trials, Trained((0.5,), TrialState.RUNNING)])  # continued with more trials
    result.write_text(json.dumps({"recipe": {}, "trials": [], "prepared_uri": "/elsewhere"}))
    assert not load_sweep(str(tmp_path / "runs"), SWEEP_ID).is_finished


def test_a_finished_sweep_is_read_from_its_result_where_its_study_is_elsewhere(tmp_path: Path) -> None:
    sweep = stored(tmp_path / "there", asha_trials(6))
    result = {
        "recipe": RECIPE.model_dump(mode="json", by_alias=True, exclude_none=True),
        "trials": [asdict(trial) for trial in sweep.trials],
        "prepared_uri": sweep.prepared_uri,
    }
    folder = tmp_path / "here" / SWEEP_ID
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    read = load_sweep(str(tmp_path / "here"), SWEEP_ID)
    assert (read.trials, read.recipe, read.prepared_uri) == (sweep.trials, sweep.recipe, sweep.prepared_uri)


def test_an_unfinished_sweep_of_another_machine_is_read_from_its_store(tmp_path: Path) -> None:
    sweep = stored(tmp_path, asha_trials(6))
    runs = f"memory://test_stored_sweep/{tmp_path.name}/runs"
    write_bytes(f"{runs}/{SWEEP_ID}/study.journal", (tmp_path / "runs" / SWEEP_ID / "study.journal").read_bytes())
    assert load_sweep(runs, SWEEP_ID).trials == sweep.trials


@pytest.mark.parametrize("trials", [[], [Trained((), TrialState.RUNNING)]])
def test_before_the_first_epoch_there_is_nothing_to_report(trials: list[Trained], tmp_path: Path) -> None:
    write_sweep(tmp_path, trials)
    with pytest.raises(InputError, match=f"no trial of {SWEEP_ID} has finished an epoch yet"):
        load_sweep(str(tmp_path / "runs"), SWEEP_ID)


def test_a_sweep_whose_trials_all_failed_at_once_says_why(tmp_path: Path) -> None:
    write_sweep(tmp_path, [Trained((), TrialState.FAIL, failure="out of memory")] * 2)
    with pytest.raises(InputError, match=r"none of the 2 trials .* finished an epoch \(out of memory\)"):
        load_sweep(str(tmp_path / "runs"), SWEEP_ID)


def test_the_winner_is_the_best_that_did_not_fail_and_left_a_checkpoint(tmp_path: Path) -> None:
    trials = [
        Trained((0.6, 0.5)),
        Trained((0.9,), TrialState.FAIL, failure="diverged"),
        Trained((0.95,), checkpoint=None),
        Trained((0.7,), TrialState.PRUNED),
    ]
    winner = stored(tmp_path, trials).winner
    assert winner is not None
    assert winner.number == 3
    assert stored(tmp_path / "failed", trials[1:3]).winner is None


def test_a_loss_is_won_by_the_lowest(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"search": RECIPE.search.model_copy(update={"metric": "loss"})})
    winner = stored(tmp_path, [Trained((0.6,)), Trained((0.2,)), Trained((0.4,))], recipe=recipe).winner
    assert winner is not None
    assert winner.number == 1


def test_what_has_one_value_is_not_searched(tmp_path: Path) -> None:
    space = {**RECIPE.search.space, "epochs": Range(fixed=4), "warmup_ratio": Range(choice=(0.1,))}
    recipe = RECIPE.model_copy(update={"search": RECIPE.search.model_copy(update={"space": space})})
    params = {"learning_rate": 1e-4, "batch_size": 16, "weight_decay": 0.0, "epochs": 4, "warmup_ratio": 0.1}
    sweep = stored(tmp_path, [Trained((0.5,), params=params)], recipe=recipe)
    assert list(sweep.searched) == ["learning_rate", "batch_size", "weight_decay"]
