"""What the benchmark of trials makes of the times and sizes that it saw."""

import pytest

from scripts.bench_trials import Measured, report_epochs


def test_the_first_trial_and_the_trials_own_training_do_not_count() -> None:
    """Three trials of 2 s each end at 10, 13 and 16 s; the sweep ends at 17 s."""
    seen = Measured(started=0.0, ended=17.0, trials_ended=[10.0, 13.0, 16.0])
    assert seen.overhead_s([2.0, 2.0, 2.0]) == pytest.approx((17 - 10 - 4) / 2)
    assert seen.first_overhead_s([2.0, 2.0, 2.0]) == pytest.approx(8.0)


def test_the_search_does_not_count() -> None:
    seen = Measured(started=0.0, ended=3.0, trials_ended=[1.0, 2.0])
    assert seen.trial_ms(suggesting_s=1.0) == pytest.approx(1000.0)


def test_growth_is_counted_between_two_shares_of_the_trials() -> None:
    seen = Measured(memory_kb=[1000.0, *(2000.0 + 10 * trial for trial in range(10))])
    assert seen.growth_kb(0.1, 1.0) == pytest.approx(10.0)


def test_a_trial_that_trains_nothing_takes_parameters_from_either_search(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[dict[str, float]] = []
    monkeypatch.setattr("ray.tune.report", reported.append)
    report_epochs({"params": {"weight_decay": 0.25}, "name": "trial-0"})
    report_epochs({"weight_decay": 0.25})
    assert [metrics["accuracy"] for metrics in reported] == [0.75, 0.75]


def test_a_trial_that_trains_nothing_reports_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[dict[str, float]] = []
    monkeypatch.setattr("ray.tune.report", reported.append)
    report_epochs({"weight_decay": 0.0}, epochs=3)
    assert [metrics["epoch"] for metrics in reported] == [1, 2, 3]
