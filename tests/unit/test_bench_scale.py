"""What the benchmark of scale counts of a sweep."""

from scripts.bench_scale import Driver
from tune.study import TrialRecord

RESULT = {"epoch": 1.0, "accuracy": 0.5}


def test_a_trial_that_starts_or_ends_is_not_counted_as_a_result() -> None:
    seen = Driver()
    for record in (
        TrialRecord(0, "running", {}),
        TrialRecord(0, "running", {}, history=(RESULT,)),
        TrialRecord(0, "running", {}, history=(RESULT, RESULT)),
        TrialRecord(0, "complete", {}, history=(RESULT, RESULT)),
    ):
        seen.on_update(record)

    assert [number for number, _ in seen.points] == [1.0, 2.0]
    assert seen.points[0][1] <= seen.points[1][1]
