"""Runs in Weights & Biases: read back from what its client writes, and from a server that takes what it sends."""

import logging
import os
from pathlib import Path

import psutil
import pytest

import common.wandb_runs
from common.errors import TrackingError
from common.tracking_settings import Wandb
from common.wandb_runs import WandbRuns, refuse_unusable_wandb
from tests.fake_wandb import KEY, fake_wandb, written_runs

pytest.importorskip("wandb")

DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def nothing_of_it_is_left() -> object:
    yield
    assert services() == []


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def record_a_sweep(runs: WandbRuns) -> None:
    """A parent and two trials that run at once; the second fails."""
    runs.start("sweep-1", job_type="sweep", config={})
    for number in (0, 1):
        runs.start(f"trial-{number}", job_type="trial", config={"learning_rate": 1e-4 * (number + 1)})
    for epoch in (1, 2):
        runs.log("trial-0", {"epoch": epoch, "accuracy": epoch / 4}, epoch)
    runs.log("trial-1", {"epoch": 1, "accuracy": 0.3}, 1)
    runs.end("trial-0", failed=False)
    runs.end("trial-1", failed=True)
    runs.end("sweep-1", failed=False)


def test_a_sweep_is_a_group_with_its_parent_trials_metrics_and_data(tmp_path: Path) -> None:
    config = {"recipe": {"name": "spam"}, "learning_rate": 5e-5}
    runs = WandbRuns(Wandb(project="spam", mode="offline"), tmp_path, group="sweep-1", tags=[DIGEST], config=config)
    record_a_sweep(runs)
    outcome = runs.close()

    assert (outcome.num_runs, outcome.not_tracked) == (3, ())
    assert f"wandb sync {tmp_path}/wandb/*run-*" in outcome.message
    written = written_runs(Path(outcome.folder))
    assert {name: run.job_type for name, run in written.items()} == {
        "sweep-1": "sweep",
        "trial-0": "trial",
        "trial-1": "trial",
    }
    assert {(run.group, run.tags) for run in written.values()} == {("sweep-1", (DIGEST,))}
    assert all(run.config["recipe"] == {"name": "spam"} for run in written.values())
    assert written["sweep-1"].config["learning_rate"] == pytest.approx(5e-5)
    assert written["trial-1"].config["learning_rate"] == pytest.approx(2e-4)
    assert [(row["epoch"], row["accuracy"]) for row in written["trial-0"].history] == [(1, 0.25), (2, 0.5)]
    assert {name: run.exit_code for name, run in written.items()} == {"sweep-1": 0, "trial-0": 0, "trial-1": 1}


@pytest.mark.usefixtures("key")
def test_online_runs_reach_the_server_and_leave_nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_wandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        runs = WandbRuns(Wandb(project="spam", entity="team"), tmp_path, group="sweep-1", tags=[DIGEST])
        record_a_sweep(runs)
        outcome = runs.close()

    assert outcome.not_tracked == ()
    assert (outcome.url or "").startswith(f"{server.url}/team/spam/runs/")
    by_name = {run["displayName"]: run_id for run_id, run in server.runs.items()}
    assert set(by_name) == {"sweep-1", "trial-0", "trial-1"}
    assert {(run["groupName"], *run["tags"]) for run in server.runs.values()} == {("sweep-1", DIGEST)}
    assert [row["accuracy"] for row in server.history[by_name["trial-0"]]] == [0.25, 0.5]
    assert written_runs(Path(outcome.folder)) == {}


def test_a_run_that_goes_on_is_the_same_run(tmp_path: Path) -> None:
    for _ in range(2):
        runs = WandbRuns(Wandb(project="spam", mode="offline"), tmp_path, group="sweep-1")
        runs.start("trial-0", job_type="trial", config={})
        runs.close()
    other = WandbRuns(Wandb(project="spam", mode="offline"), tmp_path, group="sweep-2")
    other.start("trial-0", job_type="trial", config={})
    other.close()
    ids = [file.stem for file in tmp_path.rglob("*.wandb")]
    assert len(ids) == 3
    assert len(set(ids)) == 2


@pytest.mark.usefixtures("key")
def test_a_wrong_key_ends_no_job_and_what_is_not_tracked_is_said_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with fake_wandb(status=401) as server, caplog.at_level(logging.WARNING):
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        runs = WandbRuns(Wandb(project="spam"), tmp_path, group="sweep-1")
        record_a_sweep(runs)
        outcome = runs.close()

    assert outcome.not_tracked == ("sweep-1", "trial-0", "trial-1")
    message = outcome.message
    assert "3 of 3 runs (sweep-1, trial-0, trial-1)" in message
    assert "401" in message
    assert f"wandb sync {tmp_path}/wandb/*run-*" in message
    kept = {name: len(run.history) for name, run in written_runs(tmp_path).items()}
    assert kept == {"sweep-1": 0, "trial-0": 2, "trial-1": 1}
    assert len([record for record in caplog.records if "does not take" in record.message]) == 1
    assert KEY not in message + caplog.text


@pytest.mark.usefixtures("key")
def test_a_server_that_goes_away_while_a_run_is_written_ends_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = common.wandb_runs._SETTINGS
    retries = {name: 1 for name in usual if name.endswith("retry_max")}
    waits = {f"x_{kind}_retry_wait_{end}_seconds": 0.1 for kind in common.wandb_runs._NETWORK for end in ("min", "max")}
    monkeypatch.setattr("common.wandb_runs._SETTINGS", {**usual, **retries, **waits})
    with fake_wandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        runs = WandbRuns(Wandb(project="spam"), tmp_path, group="sweep-1")
        runs.start("trial-0", job_type="trial", config={})
        while not server.runs:
            assert runs._thread.is_alive()
            runs._thread.join(0.01)
        server.status = 500
        runs.log("trial-0", {"accuracy": 0.5}, 1)
        runs.end("trial-0", failed=False)
        runs.start("trial-1", job_type="trial", config={})
        outcome = runs.close()

    assert outcome.not_tracked == ("trial-0", "trial-1")
    written = written_runs(tmp_path)
    assert written["trial-0"].history[0]["accuracy"] == 0.5
    assert "trial-1" in written


def services() -> list[psutil.Process]:
    """W&B's processes of this one."""
    return [child for child in psutil.Process().children() if "wandb" in child.name()]


def test_uploads_that_do_not_end_are_given_up_with_their_process_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.wandb_runs.CLOSE_TIMEOUT_S", 0.2)
    runs = WandbRuns(Wandb(project="spam", mode="offline"), tmp_path, group="sweep-1")
    runs.start("trial-0", job_type="trial", config={})
    while not runs._runs:
        runs._thread.join(0.01)
    (service,) = services()
    monkeypatch.setattr(runs._runs["trial-0"], "finish", lambda exit_code: service.wait())
    outcome = runs.close()
    assert not runs._thread.is_alive()
    assert (outcome.not_tracked, outcome.reason) == (("trial-0",), "uploads had not ended after 0 s")


def test_a_missing_extra_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrackingError, match=r"pip install 'tuneserve\[wandb\]'"):
        refuse_unusable_wandb(Wandb(project="spam"))
    refuse_unusable_wandb(None)


def test_a_missing_key_is_refused_online_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(TrackingError, match=r"set WANDB_API_KEY .* or write runs .* tracking\.wandb\.mode=offline"):
        refuse_unusable_wandb(Wandb(project="spam"))
    refuse_unusable_wandb(Wandb(project="spam", mode="offline"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    refuse_unusable_wandb(Wandb(project="spam"))
    assert os.environ["WANDB_API_KEY"] == KEY
