"""A sweep ends when its time is over, whatever the wall clock says."""

import time

import pytest

from tune.time_budget import TimeBudget


def test_the_budget_begins_with_the_first_step_and_a_clock_that_jumps_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    budget = TimeBudget(60.0)
    now += 500.0  # data are prepared
    assert not budget.stop_all()

    for jump_s in (86_400.0, -86_400.0):
        at = time.time() + jump_s
        monkeypatch.setattr(time, "time", lambda at=at: at)
        assert not budget.stop_all()
    now += 59.0
    assert not budget.stop_all()
    now += 1.0
    assert budget.stop_all()
