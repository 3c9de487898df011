"""Confidence bounds that hold at every look at once, so that a comparison may end as soon as it is decided.

A usual interval (Wilson, Clopper-Pearson) is right with the stated probability at one look that was fixed beforehand.
Who looks after every request and stops at the first alarm is wrong far more often. The bounds here are confidence
sequences: with the stated probability they hold at all looks together, however many there are.
"""

import math
from collections.abc import Callable, Sequence

PRIOR = 0.5
"""Both parameters of the beta mixture (Jeffreys): narrow near 0 and 1, where error rates and agreement lie."""

_BISECTIONS = 50


def mean_bounds(total: float, num: int, confidence: float) -> tuple[float, float]:
    """Bounds for the mean of observations in [0, 1], of which `num` add up to `total`; (0, 1) without any.

    The beta-binomial mixture martingale of Robbins ("Statistical methods related to the law of the iterated logarithm",
    1970), as a confidence sequence by Ville's inequality: Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform,
    nonparametric, nonasymptotic confidence sequences" (2021). It is exact for yes and no; for fractions between them
    it holds too, because a Bernoulli likelihood ratio is convex in the observation.
    """
    if num == 0:
        return 0.0, 1.0
    centre = min(1.0, max(0.0, total / num))
    limit = -math.log(1.0 - confidence)

    def is_excluded(mean: float) -> bool:
        return _log_evidence(total, num, mean) >= limit

    low = 0.0 if centre == 0.0 else _boundary(is_excluded, 0.0, centre)
    high = 1.0 if centre == 1.0 else _boundary(is_excluded, 1.0, centre)
    return low, high


def quantile_bounds(values: Sequence[float], quantile: float, confidence: float) -> tuple[float, float]:
    """Bounds for a quantile of what `values` were drawn from; -inf and inf where there are too few of them.

    Each value is at most the true quantile with the probability `quantile`, so how many are is bounded as above, and
    the values of those ranks bound the quantile: Howard and Ramdas, "Sequential estimation of quantiles" (2022).
    """
    num, limit = len(values), -math.log(1.0 - confidence)
    ordered = sorted(values)
    centre = math.floor(quantile * num)

    def is_excluded(rank: int) -> bool:
        return _log_evidence(rank, num, quantile) >= limit

    fewest = _first_rank(lambda rank: not is_excluded(rank), 0, centre)
    most = _first_rank(is_excluded, centre + 1, num + 1) - 1
    low = ordered[fewest - 1] if fewest > 0 else -math.inf
    high = ordered[most] if most < num else math.inf
    return low, high


def _log_evidence(total: float, num: int, mean: float) -> float:
    """The logarithm of the mixture martingale against `mean`; infinite where `mean` is impossible."""
    missed = max(0.0, num - total)
    if (mean <= 0.0 and total > 0) or (mean >= 1.0 and missed > 0):
        return math.inf
    against = (total * math.log(mean) if total > 0 else 0.0) + (missed * math.log1p(-mean) if missed > 0 else 0.0)
    return _log_beta(PRIOR + total, PRIOR + missed) - _log_beta(PRIOR, PRIOR) - against


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _boundary(is_excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where exclusion begins between a point that may be excluded and one that is not; on the outer side of it."""
    if not is_excluded(outside):
        return outside
    for _ in range(_BISECTIONS):
        middle = (outside + inside) / 2
        if is_excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _first_rank(holds: Callable[[int], bool], first: int, last: int) -> int:
    """The smallest rank from `first` on for which `holds`, which stays so; `last` when there is none before it."""
    while first < last:
        middle = (first + last) // 2
        if holds(middle):
            last = middle
        else:
            first = middle + 1
    return first
