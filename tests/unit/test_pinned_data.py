"""Rows that a recipe pins."""

from pathlib import Path

import pytest

from common.errors import DataError
from common.pinned_data import load_pinned_splits
from common.tokenised import prepare
from scripts import steps
from scripts.job import Job
from tests.small_job import small_job, write_recipe


@pytest.fixture
def pinned(tmp_path: Path) -> Job:
    """A job whose recipe pins its rows, and whose storage holds them."""
    job = small_job(tmp_path)
    splits = load_pinned_splits(job.recipe.data, job.storage)
    prepare(job.recipe, splits, job.storage)
    return small_job(tmp_path, f"data.sha256={splits.digest}")


def change(job: Job) -> str:
    """Relabels the first row, removes the second and adds one; returns the first one's text."""
    path = Path(job.recipe.data.source)
    header, first, _removed, *rest = path.read_text().splitlines()
    text, _, label = first.rpartition(",")
    relabelled = f'{text},"{"bearish" if "bullish" in label else "bullish"}"'
    path.write_text("\n".join([header, relabelled, *rest, '"Never heard of before","neutral"', ""]))
    return text.strip('"')


def test_the_pinned_rows_are_taken(pinned: Job) -> None:
    assert load_pinned_splits(pinned.recipe.data, pinned.storage).digest == pinned.recipe.data.sha256


def test_other_rows_are_refused_with_what_changed_and_the_way_out(pinned: Job) -> None:
    relabelled = change(pinned)

    with pytest.raises(DataError) as refused:
        load_pinned_splits(pinned.recipe.data, pinned.storage)

    message = str(refused.value)
    assert (
        f"headlines.csv does not hold the rows that data.sha256 pins ({pinned.recipe.data.sha256[:16]}...):" in message
    )
    assert f"row given another label: {relabelled[:40]!r}"[:-1] in message
    assert "row removed: " in message
    assert "row added: 'Never heard of before'" in message
    accepted = message.rpartition("data.sha256=")[2]
    assert load_pinned_splits(pinned.recipe.data.model_copy(update={"sha256": accepted}), pinned.storage)


def test_a_storage_that_never_held_the_pinned_rows_leads_to_what_there_is_now(pinned: Job, tmp_path: Path) -> None:
    change(pinned)
    with pytest.raises(
        DataError, match=r"\d+ train rows now: bearish \d+, bullish \d+, neutral \d+\n(.*\n)+.*cannot be said"
    ):
        load_pinned_splits(pinned.recipe.data, str(tmp_path / "elsewhere"))


def test_a_folder_that_is_being_written_is_passed_over(pinned: Job) -> None:
    (Path(pinned.storage) / "data" / "0000").mkdir()
    change(pinned)
    with pytest.raises(DataError, match="row added"):
        load_pinned_splits(pinned.recipe.data, pinned.storage)


@pytest.mark.parametrize("command", [steps.check, steps.train, steps.sweep, steps.prepare_data])
def test_every_command_that_reads_the_data_refuses_other_rows(command, pinned: Job) -> None:
    change(pinned)
    with pytest.raises(DataError, match=r"data\.sha256 pins"):
        command(pinned)


def test_check_prints_the_digest_to_pin(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    digest = steps.check(small_job(tmp_path))["data_sha256"]
    assert f"data.sha256={digest}" in capsys.readouterr().err
    assert steps.check(small_job(tmp_path, f"data.sha256={digest}"))["data_sha256"] == digest


def test_pinning_makes_no_other_sweep_of_it(tmp_path: Path) -> None:
    assert small_job(tmp_path, f"data.sha256={'0' * 64}").sweep_key("d") == small_job(tmp_path).sweep_key("d")


def test_a_file_that_dvc_tracks_and_has_not_brought_says_how_to_fetch_it(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    (tmp_path / "headlines.csv").rename(tmp_path / "headlines.csv.dvc")
    with pytest.raises(DataError, match=r"tracked by DVC and not here; fetch it: dvc pull .*/headlines\.csv\.dvc"):
        steps.check(Job.load(str(tmp_path / "recipe.yaml"), [], str(tmp_path / "storage"), None))


def test_a_folder_that_dvc_has_not_brought_is_no_hub_data_set(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "rows.dvc").write_text("outs: []")
    recipe.write_text(recipe.read_text().replace("headlines.csv", "rows"))
    with pytest.raises(DataError, match=r"fetch it: dvc pull .*/rows\.dvc"):
        steps.check(Job.load(str(recipe), [], str(tmp_path / "storage"), None))
