"""`storage: s3://...` against a real S3 API: what is written there, and what a machine that has nothing finds there."""

import threading
import uuid
from dataclasses import replace
from pathlib import Path

import pyarrow.csv
import pyarrow.fs
import pytest
from transformers import AutoModelForSequenceClassification

from common.builtin import finance_headlines
from common.cluster import Connection
from common.dataset import load_splits
from common.errors import InputError
from common.lease import lease
from common.location import filesystem, location_of, refuse_unreachable
from common.recipe_file import load_recipe
from common.storage import delete_folder, folders_in, read_json, write_json
from common.tokenised import PreparedData, local_folder, prepare, read_split
from scripts.job import Job
from tests.integration.test_sweep import Stopped, run, runs_of
from tests.services import Gate
from tests.small_job import small_job, write_recipe
from tune.allocation import Allocation
from tune.pretrained import local_checkpoint
from tune.stored_sweep import load_sweep
from tune.study import TrialRecord
from tune.sweep import SweepResult


@pytest.fixture
def storage(bucket: str) -> str:
    return f"{bucket}/{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))


def test_small_files_are_written_replaced_listed_and_deleted(storage: str) -> None:
    assert read_json(f"{storage}/a/b.json") is None
    assert folders_in(storage) == []
    for document in ({"text": "naïve"}, ["another"]):
        write_json(f"{storage}/a/b.json", document)
        assert read_json(f"{storage}/a/b.json") == document
    assert folders_in(storage) == ["a"]
    delete_folder(storage)
    delete_folder(storage)
    assert folders_in(storage) == []


def test_a_place_is_told_from_a_file_system_and_its_path(storage: str) -> None:
    assert location_of(*filesystem(f"{storage}/a")) == f"{storage}/a"


def test_a_bucket_that_is_not_there_is_refused_by_name(storage: str) -> None:
    refuse_unreachable(storage)
    with pytest.raises(InputError, match=r"no bucket 'none' for s3://none/a; create it"):
        refuse_unreachable("s3://none/a")


def test_data_is_read_there_tokenised_there_once_and_fetched_once_a_machine(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, path = filesystem(f"{storage}/in/headlines.csv")
    with files.open_output_stream(path) as stream:
        pyarrow.csv.write_csv(finance_headlines().slice(0, 60), stream)
    recipe = load_recipe(str(write_recipe(tmp_path)), [f"data.source={storage}/in/headlines.csv"])
    prepared = prepare(recipe, load_splits(recipe.data), storage)
    files, path = filesystem(f"{prepared.uri}/prepared.json")
    written_at = files.get_file_info(path).mtime
    assert prepare(recipe, load_splits(recipe.data), storage) == prepared == PreparedData.load(prepared.uri)
    assert files.get_file_info(path).mtime == written_at
    folders = set()
    for machine in ("one", "one", "another"):
        monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / machine))
        assert read_split(prepared, "train").num_rows == prepared.num_rows["train"]
        folders.add(local_folder(prepared))
    assert len(folders) == 2


def test_of_two_commands_on_one_recipe_the_second_is_refused(storage: str) -> None:
    uri = f"{storage}/runs/.small.lock"
    with lease(uri, "'small'"), pytest.raises(InputError, match="is at work on 'small'"), lease(uri, "'small'"):
        pass
    with lease(uri, "'small'"):
        pass


@pytest.fixture
def s3_job(storage: str, tmp_path: Path) -> Job:
    """A job with everything but its tracking database in S3."""
    job = small_job(tmp_path, "search.num_trials=2", "search.scheduler=fifo")
    return replace(job, storage=storage)


ONE_AT_ONCE = Allocation(1, 1, 0.0, max_concurrent=1)


def run_with_outage(job: Job, gate: Gate, away_s: float) -> SweepResult:
    """The sweep, during whose second trial S3 hangs up on everybody for so long; nothing of it is missing."""
    away = threading.Timer(away_s, gate.open)

    def go_away(record: TrialRecord) -> None:
        if record.number == 1 and len(record.history) == 1 and not away.is_alive() and not away.finished.is_set():
            gate.close()
            away.start()

    result = run(job, go_away, ONE_AT_ONCE)
    assert away.finished.is_set()
    assert [trial.state for trial in result.trials] == ["complete"] * 2
    assert [[epoch["epoch"] for epoch in trial.history] for trial in result.trials] == [[1, 2]] * 2
    return result


@pytest.mark.slow
def test_a_minute_without_s3_loses_nothing(cluster: Connection, s3_job: Job, s3_gate: Gate) -> None:
    run_with_outage(s3_job, s3_gate, away_s=60.0)
    assert {entry.info.status for entry in runs_of(s3_job)} == {"FINISHED"}


def test_a_sweep_goes_on_elsewhere_when_its_machine_is_lost_and_s3_was_away_for_a_while(
    cluster: Connection, s3_job: Job, s3_gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(record: TrialRecord) -> None:
        if len(record.history) == 2 and record.latest_checkpoint:
            raise Stopped

    with pytest.raises(Stopped):
        run(s3_job, stop, ONE_AT_ONCE)

    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "another machine"))
    (before,) = load_sweep(s3_job.runs, "sweep-1").trials
    result = run_with_outage(s3_job, s3_gate, away_s=6.0)  # in a trial Arrow itself would wait for 1 s
    (resumed,) = [trial for trial in result.trials if trial.number == 0]
    assert resumed.history[0] == before.history[0]  # with its speed: the epoch was not trained again
    assert {entry.info.status for entry in runs_of(s3_job)} == {"FINISHED"}

    assert result.best.checkpoint is not None
    assert result.best.checkpoint.startswith(s3_job.storage)
    model = local_checkpoint(result.best.checkpoint, tmp_path / "model")
    AutoModelForSequenceClassification.from_pretrained(model)
    files, path = filesystem(s3_job.runs)
    stored = files.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    weights = {location_of(files, info.path) for info in stored if info.base_name == "model.safetensors"}
    of_others = {place for place in weights if not place.startswith(result.best.checkpoint)}
    assert len(of_others) <= 1  # of the trial that the lost machine was at, in a folder of that machine's
