"""Whether live traffic still looks like the validation split: its label mix and how sure the model is of it.

Compared by the population stability index, sum of (a - e) ln(a / e) over the shares a of live traffic and e of the
validation split: N. Siddiqi, Credit Risk Scorecards (2006), from which also come the usual limits, 0.1 (look at it) and
0.25 (it has shifted). Chance alone makes it about (1/m + 1/n) (B - 1) for m and n texts and B bins: B. Yurdakul,
Statistical Properties of Population Stability Index (2018). Texts are counted and never kept.
"""

import asyncio
import logging
import math
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from common.validation_profile import ValidationProfile
from serve.answered import Answered
from serve.batching import ServedVersion
from serve.metrics import GatewayMetrics

if TYPE_CHECKING:
    from serve.endpoints import Endpoints

WINDOW_TEXTS = 1000
"""Texts that the figures are about: the last ones of a version."""

MIN_TEXTS = 100
"""With fewer, a comparison says more about chance than about traffic."""

PUBLISH_EVERY_S = 2.0
QUIET_S = 600.0
"""A version that no alias leads to any more is forgotten when it has not answered for so long."""

READ_AGAIN_AFTER_S = 60.0
"""Where a version's profile could not be read."""

_UNSEEN = 0.5
"""Added to every count, as by a Jeffreys prior: a share of 0 would make the index infinite."""

Key = tuple[str, int]
"""An endpoint's name and the version that answered."""

logger = logging.getLogger(__name__)


class Window:
    """The last answers of a version."""

    def __init__(self, size: int = WINDOW_TEXTS) -> None:
        self._size = size
        self._last: deque[tuple[str, float]] = deque()
        self.labels: Counter[str] = Counter()
        self.answered_at = time.monotonic()

    def add(self, label: str, score: float) -> None:
        """Takes an answer, and forgets the oldest where there are more than the window holds."""
        self._last.append((label, score))
        self.labels[label] += 1
        if len(self._last) > self._size:
            oldest, _ = self._last.popleft()
            self.labels[oldest] -= 1

    @property
    def scores(self) -> list[float]:
        """The scores of the labels, oldest first."""
        return [score for _, score in self._last]

    def label_psi(self, profile: ValidationProfile) -> float:
        """How far the label mix is from the validation split's."""
        names = list(profile.label_counts | self.labels)
        return psi([self.labels[name] for name in names], [profile.label_counts.get(name, 0) for name in names])

    def score_psi(self, profile: ValidationProfile) -> float:
        """How far the scores are from the validation split's."""
        bins = Counter(bisect_right(profile.score_edges, score) for score in self.scores)
        return psi([bins[number] for number in range(len(profile.score_counts))], profile.score_counts)


def psi(actual: Sequence[int], expected: Sequence[int]) -> float:
    """The population stability index of two histograms over the same bins; 0 when their shares are equal."""
    return sum((a - e) * math.log(a / e) for a, e in zip(_shares(actual), _shares(expected), strict=True))


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) + _UNSEEN * len(counts)
    return [(count + _UNSEEN) / total for count in counts]


class DriftMonitor:
    """The figures of all endpoints; an observer of the gateway."""

    def __init__(
        self,
        metrics: GatewayMetrics,
        read: Callable[[str], ValidationProfile | None] = ValidationProfile.read,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._read = read
        self._clock = clock
        self._windows: dict[Key, Window] = {}
        self._profiles: dict[Key, ValidationProfile | None] = {}
        self._read_again_at: dict[Key, float] = {}

    def answered(self, seen: Answered) -> None:
        """Counts the labels and scores of a request; about a microsecond a text."""
        if seen.version is None or not seen.answers:
            return
        window = self._windows.setdefault((seen.endpoint, seen.version), Window())
        window.answered_at = self._clock()
        for answer in seen.answers:
            window.add(answer["label"], answer["score"])

    async def follow(self, endpoints: "Endpoints") -> None:
        """Publishes the figures until it is cancelled."""
        while True:
            served = {name: endpoints[name].served for name in endpoints.names()}
            try:
                await self.publish({name: version for name, version in served.items() if version})
            except Exception:  # figures that are missing for once are no reason to have none from then on
                logger.exception("the drift figures were not published")
            await asyncio.sleep(PUBLISH_EVERY_S)

    async def publish(self, served: dict[str, ServedVersion]) -> None:
        """Publishes the figures, and takes back the figures of versions that are gone; `served` is by endpoint."""
        for key, window in list(self._windows.items()):
            name, version = key
            current = served.get(name)
            is_served = current is not None and current.version == version
            if not is_served and (current is None or self._clock() - window.answered_at > QUIET_S):
                self._forget(key)
                continue
            if current is not None and is_served:
                await self._learn(key, current.uri)
            self._tell(key, window)  # new or not: Ray drops a gauge that is not set again

    async def _learn(self, key: Key, uri: str) -> None:
        """Reads a version's profile, off the event loop; once, unless that fails."""
        if key in self._profiles or self._clock() < self._read_again_at.get(key, -math.inf):
            return
        try:
            profile = await asyncio.to_thread(self._read, uri)
        except Exception as error:  # whatever an object store can raise
            self._read_again_at[key] = self._clock() + READ_AGAIN_AFTER_S
            logger.warning("the validation profile at %s cannot be read: %s", uri, error)
            return
        self._profiles[key] = profile

    def _tell(self, key: Key, window: Window) -> None:
        scores = window.scores
        shares = {label: count / len(scores) for label, count in window.labels.items()}
        self._metrics.answers(*key, num_texts=len(scores), shares=shares, confidence=sum(scores) / len(scores))
        profile = self._profiles.get(key)
        if profile is None:
            return
        expected = {label: count / profile.num_rows for label, count in profile.label_counts.items()}
        self._metrics.validation(*key, shares=expected, confidence=profile.mean_score)
        if len(scores) >= MIN_TEXTS:
            self._metrics.drift(*key, labels=window.label_psi(profile), confidence=window.score_psi(profile))

    def _forget(self, key: Key) -> None:
        """A gauge keeps its last value for good: 0 says that there is nothing any more."""
        labels, profile = self._windows.pop(key).labels, self._profiles.pop(key, None)
        self._read_again_at.pop(key, None)
        self._metrics.answers(*key, num_texts=0, shares=dict.fromkeys(labels, 0.0), confidence=0.0)
        if profile is not None:
            self._metrics.validation(*key, shares=dict.fromkeys(profile.label_counts, 0.0), confidence=0.0)
            self._metrics.drift(*key, labels=0.0, confidence=0.0)
