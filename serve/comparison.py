"""What a canary has seen of two versions, and what follows from it."""

import math
from dataclasses import dataclass, field

from serve.confidence import mean_bounds, quantile_bounds

CONFIDENCE = 0.99
"""Probability that a candidate within all bounds is never rolled back for one of them, for each of the three."""

MAX_EXTRA_ERROR_RATE = 0.01
"""A candidate may fail this share of its requests more often than the champion."""

MAX_LATENCY_RATIO = 2.0
"""A candidate's 95th percentile of latency may be this many times the champion's."""

LATENCY_QUANTILE = 0.95

MAX_LATENCIES = 10_000
"""Latencies kept of each version; what is undecided after so many lies on a bound."""


@dataclass
class Side:
    """The requests that one of the versions was asked, and how it answered them."""

    num_requests: int = 0
    num_errors: int = 0
    latencies_s: list[float] = field(default_factory=list)

    def answered(self, seconds: float | None) -> None:
        """A request was answered; `seconds` is None where a wake was part of it, which says nothing of a version."""
        self.num_requests += 1
        if seconds is not None and len(self.latencies_s) < MAX_LATENCIES:
            self.latencies_s.append(seconds)

    def failed(self) -> None:
        """A request was not answered."""
        self.num_requests += 1
        self.num_errors += 1

    @property
    def error_rate(self) -> float | None:
        """The share of requests that failed; None before the first."""
        return self.num_errors / self.num_requests if self.num_requests else None

    def latency_s(self, quantile: float) -> float | None:
        """The smallest latency that this share of the requests does not exceed; None before the first."""
        ordered = sorted(self.latencies_s)
        return ordered[max(0, math.ceil(quantile * len(ordered)) - 1)] if ordered else None


@dataclass(frozen=True)
class Verdict:
    """How a comparison ended, and the figures that decided it."""

    passed: bool
    reason: str


@dataclass
class Comparison:
    """A candidate beside the champion. `num_compared` requests were answered by both."""

    min_requests: int
    min_agreement: float
    champion: Side = field(default_factory=Side)
    candidate: Side = field(default_factory=Side)
    num_compared: int = 0
    _agreements: float = 0.0

    def compared(self, agreement: float) -> None:
        """Both answered a request; `agreement` is the share of its texts that got the same label.

        A request counts once, however many texts it holds: texts that come together are alike.
        """
        self.num_compared += 1
        self._agreements += agreement

    @property
    def agreement(self) -> float | None:
        """The mean agreement; None before the first comparison."""
        return self._agreements / self.num_compared if self.num_compared else None

    def verdict(self) -> Verdict | None:
        """What follows by now; None while it is open.

        A candidate fails as soon as one of its figures lies beyond a bound by the confidence sequences of
        `serve.confidence`, which may be asked at any time. It passes once enough requests were compared and none of
        the figures themselves lies beyond its bound: between the two the comparison goes on.
        """
        failure = self._error_failure() or self._latency_failure() or self._agreement_failure()
        if failure is not None:
            return Verdict(False, failure)
        if self.num_compared < self.min_requests or not self._is_within_bounds():
            return None
        return Verdict(
            True,
            f"{self.num_compared} requests were compared: agreement {self.agreement:.3f}, errors "
            f"{_percent(self.candidate.error_rate)} against {_percent(self.champion.error_rate)}",
        )

    def _error_failure(self) -> str | None:
        # Two bounds hold together with the confidence that is wanted when each holds with half the doubt.
        confidence = 1.0 - (1.0 - CONFIDENCE) / 2
        ours, theirs = self.candidate, self.champion
        least, _ = mean_bounds(ours.num_errors, ours.num_requests, confidence)
        _, most = mean_bounds(theirs.num_errors, theirs.num_requests, confidence)
        if least <= most + MAX_EXTRA_ERROR_RATE:
            return None
        return (
            f"it failed {ours.num_errors} of {ours.num_requests} requests, and the champion {theirs.num_errors} of "
            f"{theirs.num_requests}; {_percent(MAX_EXTRA_ERROR_RATE)} more than the champion are allowed"
        )

    def _latency_failure(self) -> str | None:
        confidence = 1.0 - (1.0 - CONFIDENCE) / 2
        least, _ = quantile_bounds(self.candidate.latencies_s, LATENCY_QUANTILE, confidence)
        _, most = quantile_bounds(self.champion.latencies_s, LATENCY_QUANTILE, confidence)
        if least <= MAX_LATENCY_RATIO * most:
            return None
        return (
            f"its 95th percentile of latency is {_ms(self.candidate.latency_s(LATENCY_QUANTILE))}, and the champion's "
            f"{_ms(self.champion.latency_s(LATENCY_QUANTILE))}; {MAX_LATENCY_RATIO:g} times that is allowed"
        )

    def _agreement_failure(self) -> str | None:
        _, most = mean_bounds(self._agreements, self.num_compared, CONFIDENCE)
        if most >= self.min_agreement:
            return None
        return (
            f"its labels are the champion's for {_percent(self.agreement)} of the texts in {self.num_compared} "
            f"requests; {_percent(self.min_agreement)} are wanted (--min-agreement)"
        )

    def _is_within_bounds(self) -> bool:
        ours, theirs = (side.latency_s(LATENCY_QUANTILE) for side in (self.candidate, self.champion))
        is_as_fast = ours is None or theirs is None or ours <= MAX_LATENCY_RATIO * theirs
        errors, baseline = (side.error_rate or 0.0 for side in (self.candidate, self.champion))
        fails_no_oftener = errors <= baseline + MAX_EXTRA_ERROR_RATE
        return is_as_fast and fails_no_oftener and (self.agreement or 0.0) >= self.min_agreement


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.3g} %"


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{1000 * seconds:.3g} ms"
