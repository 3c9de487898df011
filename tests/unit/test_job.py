"""Where state lives, and which runs a storage holds."""

from pathlib import Path

import pytest

from common.cluster_record import ClusterRecord
from common.errors import InputError, TrackingError
from common.recipe_file import shipped_recipes
from common.storage import read_json, write_json
from scripts import job
from scripts.job import Job, storage_location, tracking_location

QUICKSTART = str(shipped_recipes()["quickstart"])


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TUNESERVE_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def load(storage: Path, *overrides: str) -> Job:
    return Job.load(QUICKSTART, overrides, str(storage), None)


def finish(storage: Path, run: str, name: str, at: float) -> None:
    write_json(f"{storage}/runs/{run}/result.json", {"name": name, "finished_at": at, "id": run})


def test_runs_of_two_users_in_the_same_second_have_different_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "20260101-000000")
    monkeypatch.setattr("os.getpid", lambda: 1)  # as in containers
    users = [load(tmp_path / user) for user in ("ana", "bo")]

    ids = {user.new_run("sweep") for user in users}

    assert len(ids) == 2
    assert all(found.startswith("quickstart-sweep-20260101-000000-") for found in ids)


def test_a_run_stays_whose_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ana", "bo"):
        monkeypatch.setenv("TUNESERVE_OWNER", name)
        load(tmp_path).note_start("quickstart-sweep-1")

    assert read_json(f"{tmp_path}/runs/quickstart-sweep-1/started.json") == {"owner": "ana"}


def test_storage_comes_from_the_nearest_that_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert storage_location(None) == str(tmp_path / "outputs")
    record = ClusterRecord("a", "d", None, "/of-the-cluster", "sqlite:///c.db", 1, "", "")
    monkeypatch.setattr(job, "read_record", lambda: record)
    assert storage_location(None) == "/of-the-cluster"
    monkeypatch.setenv("TUNESERVE_STORAGE", "/of-the-environment")
    assert storage_location(None) == "/of-the-environment"
    assert Job.load(QUICKSTART, ["storage=of-the-recipe"], None, None).storage == str(tmp_path / "of-the-recipe")
    assert storage_location("s3://bucket/of-the-option") == "s3://bucket/of-the-option"


def test_a_job_without_a_storage_does_not_write_into_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(InputError, match="set TUNESERVE_STORAGE and MLFLOW_TRACKING_URI in the cluster's environment"):
        storage_location(None)
    monkeypatch.setenv("TUNESERVE_STORAGE", "s3://bucket/of-the-cluster")
    assert storage_location(None) == "s3://bucket/of-the-cluster"


def test_the_clusters_tracking_goes_with_the_clusters_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    record = ClusterRecord("a", "d", None, "/shared", "http://mlflow:5000", 1, "", "")
    monkeypatch.setattr(job, "read_record", lambda: record)
    assert tracking_location(None, "/shared") == "http://mlflow:5000"
    assert tracking_location(None, "/elsewhere") == "sqlite:////elsewhere/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    assert tracking_location(None, "/shared") == "http://other"
    assert tracking_location("http://option", "/shared") == "http://option"


def test_a_database_given_by_a_relative_path_is_the_same_from_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = f"sqlite:///{tmp_path}/runs.db"
    assert tracking_location("sqlite:///runs.db", "/storage") == expected
    assert Job.load(QUICKSTART, ["tracking.mlflow_uri=sqlite:///runs.db"], "/storage", None).tracking_uri == expected
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    assert tracking_location(None, "/storage") == expected


def test_a_remote_storage_asks_for_a_tracking_server() -> None:
    with pytest.raises(TrackingError, match=r"tracking\.mlflow_uri"):
        tracking_location(None, "s3://bucket")


def test_promote_takes_the_newest_finished_run_of_this_recipe(tmp_path: Path) -> None:
    finish(tmp_path, "quickstart-sweep-1", "quickstart", at=2.0)
    finish(tmp_path, "quickstart-train-2", "quickstart", at=1.0)
    finish(tmp_path, "other-sweep-3", "other", at=3.0)
    assert [run["id"] for run in load(tmp_path).finished_runs()] == ["quickstart-train-2", "quickstart-sweep-1"]


def test_resume_finds_the_newest_sweep_without_a_result(tmp_path: Path) -> None:
    for run in ("quickstart-sweep-20260101-1", "quickstart-sweep-20260102-1", "quickstart-sweep-20260103-1"):
        (tmp_path / "runs" / run).mkdir(parents=True)
    finish(tmp_path, "quickstart-sweep-20260103-1", "quickstart", at=1.0)
    assert load(tmp_path).interrupted_sweep() == "quickstart-sweep-20260102-1"


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no interrupted sweep of 'quickstart'"):
        load(tmp_path).interrupted_sweep()


def test_a_second_command_on_the_same_recipe_is_refused_until_the_first_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(tmp_path).exclusively():
        with load(tmp_path).exclusively():
            pass  # a step of `run` takes the lock of the whole again
        with monkeypatch.context() as another_process:
            another_process.setattr(job, "_held", set())
            with load(tmp_path, "name=another").exclusively():
                pass
            again = load(tmp_path).exclusively()
            with pytest.raises(InputError, match="another command is at work on 'quickstart'"):
                again.__enter__()
    with load(tmp_path).exclusively():
        pass


def test_a_sweep_is_the_same_as_long_as_what_its_trials_depend_on_is(tmp_path: Path) -> None:
    key = load(tmp_path).sweep_key("digest")
    assert load(tmp_path, "serve.max_replicas=9").sweep_key("digest") == key
    assert load(tmp_path, "registry.gate.minimum=0.5").sweep_key("digest") == key
    assert load(tmp_path, "search.num_trials=50", "search.time_budget_s=9").sweep_key("digest") == key
    assert load(tmp_path, "train.placement=spread").sweep_key("digest") == key
    assert load(tmp_path, "train.epochs=9").sweep_key("digest") != key
    assert load(tmp_path, "search.seed=9").sweep_key("digest") != key
    assert load(tmp_path).sweep_key("other rows") != key
    assert load(tmp_path / "elsewhere").sweep_key("digest") != key  # another tracking database


def test_a_promotion_is_repeated_for_another_winner_or_another_gate(tmp_path: Path) -> None:
    run = {"best": {"run_id": "a"}}
    key = load(tmp_path).promotion_key(run)
    assert load(tmp_path, "serve.max_replicas=9").promotion_key(run) == key
    assert load(tmp_path, "registry.gate.minimum=0.5").promotion_key(run) != key
    assert load(tmp_path).promotion_key({"best": {"run_id": "b"}}) != key


def test_an_interrupted_training_is_continued_by_the_same_recipe_alone(tmp_path: Path) -> None:
    for run in ("quickstart-train-1", "quickstart-train-2", "quickstart-train-3"):
        write_json(f"{tmp_path}/runs/{run}/started.json", {"key": run[-1]})
    finish(tmp_path, "quickstart-train-3", "quickstart", at=1.0)
    quickstart = load(tmp_path)
    assert quickstart.interrupted_training("2") == "quickstart-train-2"
    assert quickstart.interrupted_training("3") is None  # it has finished
    assert quickstart.interrupted_training("4") is None
