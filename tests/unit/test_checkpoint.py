"""A checkpoint that was cut short is recognised, and the one before is used."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.checkpoint import MANIFEST_FILE, STATE_FILE, damage, first_whole, keep_only, seal


def checkpoint(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "trainer_state.pt").write_bytes(b"state" * 100)
    (folder / "deep" / "empty.txt").touch()
    seal(folder)
    return folder


def test_a_sealed_checkpoint_is_whole(tmp_path: Path) -> None:
    assert damage(str(checkpoint(tmp_path / "one"))) is None
    assert damage((tmp_path / "one").as_uri()) is None


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.pt"])
def test_a_file_that_is_cut_short_is_named_with_both_sizes(name: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "one")
    size = (folder / name).stat().st_size
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    assert damage(str(folder)) == f"{name} has 100 of {size} bytes"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.safetensors", "model.safetensors is missing"),
        ("deep/empty.txt", "deep/empty.txt is missing"),
        (MANIFEST_FILE, f"it has no {MANIFEST_FILE}"),
    ],
)
def test_a_file_that_is_missing_is_named(name: str, said: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "one")
    (folder / name).unlink()
    assert damage(str(folder)) == said


@given(kept=st.floats(0, 0.999))
def test_a_manifest_that_is_cut_short_anywhere_is_no_manifest(kept: float, tmp_path_factory) -> None:
    folder = checkpoint(tmp_path_factory.mktemp("cut") / "one")
    text = (folder / MANIFEST_FILE).read_text()
    (folder / MANIFEST_FILE).write_text(text[: int(len(text) * kept)])
    assert damage(str(folder)) == f"its {MANIFEST_FILE} is cut short"


def test_a_folder_that_is_not_there_is_not_whole(tmp_path: Path) -> None:
    assert damage(str(tmp_path / "none")) is not None


def test_the_one_before_is_used_and_what_is_wrong_with_the_newer_is_said(tmp_path: Path) -> None:
    newest, before = checkpoint(tmp_path / "2"), checkpoint(tmp_path / "1")
    assert first_whole([str(newest), str(before)]) == (str(newest), [])
    (newest / "model.safetensors").write_bytes(b"")
    found, problems = first_whole([str(newest), str(before)])
    assert found == str(before)
    assert problems == [f"checkpoint {newest} is not whole (model.safetensors has 0 of 700 bytes)"]
    (before / "trainer_state.pt").unlink()
    assert first_whole([str(newest), str(before)])[0] is None


def test_of_a_finished_trial_the_best_checkpoint_stays_without_the_optimisers_state(tmp_path: Path) -> None:
    best, other = checkpoint(tmp_path / "checkpoint_000001"), checkpoint(tmp_path / "checkpoint_000002")
    (tmp_path / "result.json").touch()
    keep_only(str(best))
    assert not other.exists()
    assert not (best / STATE_FILE).exists()
    assert (tmp_path / "result.json").exists()
    assert damage(str(best)) is None
    keep_only(str(best))  # again, as after an interruption
    assert damage(str(best)) is None
