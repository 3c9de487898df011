"""A sweep that cannot fit says so before it starts."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from common.dataset import Splits, load_splits
from common.errors import InputError
from common.recipe_file import shipped_recipes
from scripts import plan
from scripts.job import Job
from scripts.plan import make_plan, prepared_bytes, refuse_what_cannot_fit
from tune.allocation import Allocation
from tune.cost import Cost

ONE = Allocation(num_workers=1, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1)
COST = Cost(
    expected_s=600.0,
    bound_s=1200.0,
    first_rung_s=60.0,
    device="CPU core",
    device_hours=0.17,
    device_hours_bound=0.33,
    disk_bytes=10**9,
)


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plan, "measured_cost", lambda *_: COST)
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def free(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(num_bytes))


def job(storage: Path, *overrides: str) -> Job:
    return Job.load(str(shipped_recipes()["quickstart"]), overrides, str(storage), None)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(Job.load(str(shipped_recipes()["quickstart"]), (), "unused", None).recipe.data)


def test_a_budget_in_which_no_trial_reports_is_refused_with_both_times(tmp_path: Path, splits: Splits) -> None:
    with pytest.raises(InputError, match=r"time_budget_s 30 is too short .* takes about 60 s"):
        refuse_what_cannot_fit(job(tmp_path, "search.time_budget_s=30"), splits, ONE)


def test_a_budget_that_ends_before_the_plan_does_is_a_warning(
    tmp_path: Path, splits: Splits, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_what_cannot_fit(job(tmp_path, "search.time_budget_s=300"), splits, ONE)
    assert (
        "warning: the sweep takes about 10 min and search.time_budget_s ends it after 5 min" in capsys.readouterr().err
    )
    refuse_what_cannot_fit(job(tmp_path, "search.time_budget_s=3000"), splits, ONE)
    assert "warning" not in capsys.readouterr().err


def test_a_disk_with_less_room_than_is_needed_is_refused_with_both_sizes(
    tmp_path: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 10**8)
    with pytest.raises(InputError, match=r"has 100 MB free and the sweep needs up to 1 GB"):
        refuse_what_cannot_fit(job(tmp_path / "new", "search.time_budget_s=300"), splits, ONE)
    free(monkeypatch, 1000)  # and without a measurement, for the prepared data alone
    with pytest.raises(InputError, match=r"has 1 kB free"):
        refuse_what_cannot_fit(job(tmp_path / "new"), splits, ONE)
    free(monkeypatch, 2 * 10**9)
    refuse_what_cannot_fit(job(tmp_path / "new", "search.time_budget_s=300"), splits, ONE)


def test_the_plan_states_hours_device_hours_and_disk_when_measured(tmp_path: Path, splits: Splits) -> None:
    plain = make_plan(job(tmp_path), splits, [], measure=False)
    measured = make_plan(job(tmp_path), splits, [], measure=True)
    assert set(measured) - set(plain) == {
        "expected_s",
        "bound_s",
        "first_rung_s",
        "device",
        "device_hours",
        "device_hours_bound",
        "disk_bytes",
    }


def test_prepared_data_are_not_larger_than_reckoned(tmp_path: Path, splits: Splits) -> None:
    from common.tokenised import prepare

    recipe = job(tmp_path).recipe
    prepared = prepare(recipe, splits, str(tmp_path))
    stored = sum(path.stat().st_size for path in Path(prepared.uri).glob("*.arrow"))
    assert stored <= prepared_bytes(recipe, splits) <= 4 * stored
