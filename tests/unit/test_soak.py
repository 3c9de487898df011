import pytest

from common.errors import ServingError
from scripts.soak import Sample, course


def test_the_slope_is_that_of_the_memory_after_the_warm_up_and_no_peak_moves_it() -> None:
    samples = [Sample(at_s, 100.0 + 0.01 * at_s) for at_s in range(0, 400, 10)]
    samples[:8] = [Sample(at_s, float(at_s)) for at_s in range(0, 80, 10)]  # caches fill
    samples[20] = Sample(200, 900.0)

    found = course("gateway", samples)

    assert found.mb_per_h == pytest.approx(36.0, rel=0.02)
    assert (found.first_mb, found.most_mb, found.is_steady) == (0.0, 900.0, False)


def test_memory_that_goes_up_and_down_is_steady() -> None:
    assert course("replica", [Sample(at_s, 50.0 + at_s % 3) for at_s in range(100)]).is_steady


def test_too_few_looks_tell_nothing() -> None:
    with pytest.raises(ServingError, match="load for longer"):
        course("standby", [Sample(0.0, 50.0)])
