"""`tuneserve report`: which sweep is meant, and what it leaves."""

import json
from pathlib import Path

import pytest

from common.errors import InputError
from common.storage import write_json
from scripts.cli import main
from scripts.reporting import find_sweep
from tests.stored_sweeps import SWEEP_ID, Trained, sketch, write_sweep
from tune import report


@pytest.fixture(autouse=True)
def own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUNESERVE_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "render", sketch)


def run(*arguments: str) -> int:
    try:
        main(["report", *arguments], standalone_mode=False)
    except SystemExit as ending:
        return int(ending.code or 0)
    return 0


@pytest.fixture
def storage(tmp_path: Path) -> str:
    for run_id in ("a-sweep-20260101-1", "a-sweep-20260102-1", "a-b-sweep-20260103-1", "a-train-20260104-1"):
        write_json(f"{tmp_path}/runs/{run_id}/result.json", {})
    return str(tmp_path)


@pytest.mark.parametrize(
    ("named", "meant"),
    [
        ("a-sweep-20260101-1", "a-sweep-20260101-1"),
        ("a-sweep-20260101", "a-sweep-20260101-1"),
        ("a", "a-sweep-20260102-1"),
        ("a-b", "a-b-sweep-20260103-1"),
    ],
)
def test_a_sweep_is_named_by_its_id_a_beginning_of_it_or_its_recipe(named: str, meant: str, storage: str) -> None:
    assert find_sweep(storage, named) == meant


@pytest.mark.parametrize("named", ["b", "a-train-20260104-1", "A"])
def test_an_unknown_sweep_is_answered_with_those_that_there_are(named: str, storage: str) -> None:
    with pytest.raises(InputError, match=f"is called '{named}'; there are: .*a-sweep-20260101-1, a-sweep-20260102-1"):
        find_sweep(storage, named)


def test_a_beginning_of_several_is_refused(storage: str) -> None:
    with pytest.raises(InputError, match=r"'a-sweep' begins .* several sweeps; choose one: a-sweep-20260101-1, a-s"):
        find_sweep(storage, "a-sweep")


def test_a_storage_without_sweeps_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no sweep in .*runs; make one"):
        find_sweep(str(tmp_path), "a")


def test_the_command_leaves_a_page_and_pngs_beside_the_trials(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path / "storage", [Trained((0.5,))])
    assert run("tiny", "--storage", "storage", "--json") == 0
    result = json.loads(capfd.readouterr().out)
    folder = tmp_path / "storage" / "runs" / SWEEP_ID / "report"
    assert result["report"] == str(folder / "index.html")
    assert set(result["figures"]) == {str(path) for path in folder.glob("*.png")}
    assert {path.name for path in folder.iterdir()} == {"index.html", *(Path(f).name for f in result["figures"])}
    assert (result["sweep_id"], result["finished"], result["best"]["number"]) == (SWEEP_ID, False, 0)
    assert set(result["missing"]) == {"parameter_importance", "confusion_matrix"}


def test_the_report_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    write_sweep(tmp_path / "storage", [Trained((0.5,))])
    assert run(SWEEP_ID, "--storage", "storage", "--out", "elsewhere") == 0
    assert (tmp_path / "elsewhere" / "index.html").is_file()
    assert not (tmp_path / "storage" / "runs" / SWEEP_ID / "report").exists()


def test_a_storage_that_is_a_url_gets_its_report_too(tmp_path: Path) -> None:
    write_sweep(tmp_path / "storage", [Trained((0.5,))])
    assert run("tiny", "--storage", (tmp_path / "storage").as_uri()) == 0
    assert (tmp_path / "storage" / "runs" / SWEEP_ID / "report" / "index.html").is_file()


def test_what_cannot_be_reported_ends_with_exit_code_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path / "storage", [])
    assert run("tiny", "--storage", "storage") == 2
    assert "has finished an epoch yet" in capfd.readouterr().err
    assert run("other", "--storage", "storage") == 2
    assert f"there are: {SWEEP_ID}" in capfd.readouterr().err
