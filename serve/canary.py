"""A candidate beside the champion of one endpoint: who is asked, what is compared, and how it ends.

In a canary the candidate answers its share of the requests; in a shadow it is asked the same as the champion, and
nobody waits for it. Either way no request fails because of a candidate, and no answer waits for a comparison.
"""

import asyncio
import contextvars
import hashlib
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from common.errors import ServingError
from serve.batching import MAX_BATCH_SIZE, Answer, Batcher, QueueFullError, ServedVersion, Text
from serve.canary_settings import CanarySettings
from serve.comparison import Comparison, Side, Verdict
from serve.health import CanaryHealth, CanaryState, VersionHealth

if TYPE_CHECKING:
    from serve.endpoints import Backend, EndpointSpec

CANDIDATE_LIMIT_S = 10.0
"""A candidate that has not answered by then has failed; the champion then answers within the request's own deadline."""


class Canary:
    """One canary or shadow, in the gateway."""

    def __init__(
        self, name: str, spec: "EndpointSpec", settings: CanarySettings, batcher: Batcher, backend: "Backend"
    ) -> None:
        self.settings = settings
        self.outcome: CanaryHealth | None = None
        """How it ended; set before that is on record."""
        self.problem: str | None = None
        self.comparison = self._new_comparison()
        self._batcher = batcher
        self._name = name
        self._spec = spec
        self._backend = backend
        self._champion: ServedVersion | None = None
        self._candidate: ServedVersion | None = None
        self._is_on_record = False
        self._stale: ServedVersion | None = None
        self._is_unused = False
        self._comparing: asyncio.Task[None] | None = None

    async def classify(
        self, champion: ServedVersion, texts: list[Text], request_id: str, *, is_awake: bool
    ) -> tuple[list[Answer], int]:
        """An answer for each text, and the version that gave them all. Raises what the champion's batches raise.

        `is_awake` says whether a replica was there when the request came.
        """
        candidate = self._candidate if champion == self._champion else None
        if candidate is None or self.outcome is not None:
            return await self._batcher.classify(champion, texts), champion.version
        # Of another champion nothing is counted here any more: what began under this one ends under it.
        seen = self.comparison
        is_drawn = draws(request_id, self.settings)
        if not is_drawn or self.settings.mode == "shadow":
            answers = await self._by_champion(champion, texts, seen, is_awake=is_awake)
            if is_drawn and _is_whole(answers):
                self._compare_later(candidate, texts, answers, seen)
            return answers, champion.version
        began_at = perf_counter()
        try:
            answers = await self._by_candidate(candidate, texts)
        except QueueFullError:
            raise
        except Exception as error:  # whatever a model, its files or a replica can raise
            answers = await self._by_champion(champion, texts, seen, is_awake=is_awake)
            # Not for a text that neither can take, nor for a wake that was slow.
            if _is_whole(answers) and (is_awake or not isinstance(error, TimeoutError)):
                seen.candidate.failed()
            return answers, champion.version
        seen.candidate.answered(perf_counter() - began_at if is_awake else None)
        self._compare_later(champion, texts, answers, seen)
        return answers, candidate.version

    async def follow(self, champion: ServedVersion) -> None:
        """Takes over which version the alias points to, and ends the canary when that is decided.

        Called again and again, and never twice at once. What the registry refuses is tried again the next time.
        """
        try:
            await self._follow(champion)
            self.problem = None
        except Exception as error:  # whatever a tracking server or an object store can raise
            self.problem = str(error) or type(error).__name__

    def health(self) -> CanaryHealth:
        """How it does, or how it ended."""
        if self.outcome is not None:
            return self.outcome.model_copy(update={"problem": self.problem})
        return self._health("running", None)

    async def _follow(self, champion: ServedVersion) -> None:
        await self._release_stale(champion)
        if self._is_on_record:
            return
        if self._candidate is None:
            self._candidate, self.outcome = await self._backend.candidate(self._name, self._spec)
            self._is_on_record = self.outcome is not None
        if champion != self._champion:
            self._champion = champion
            self.comparison = self._new_comparison()
        if self.outcome is None and (verdict := self._verdict(champion)) is not None:
            self.outcome = self._health("finished" if verdict.passed else "rolled back", verdict.reason)
        if self.outcome is not None and not self._is_on_record:
            if not await self._backend.conclude(self._name, self._spec, self.outcome):
                self.outcome = None  # of another champion, with which the next look begins anew
                return
            self._is_on_record = True
            moves = self.outcome.state == "finished" and self.settings.mode == "canary"
            self._stale = champion if moves else self._candidate

    async def _release_stale(self, champion: ServedVersion) -> None:
        """Gives the memory of the version that lost back, a look after it was left: late batches are through."""
        if self._stale is None or champion.version == self._stale.version:
            return
        if self._is_unused:
            await self._backend.release(self._name, self._stale)
            self._stale = None
        self._is_unused = True

    def _verdict(self, champion: ServedVersion) -> Verdict | None:
        if champion.version == self.settings.version:
            return Verdict(True, "the alias was moved to the candidate meanwhile")
        return self.comparison.verdict()

    async def _by_champion(
        self, champion: ServedVersion, texts: list[Text], seen: Comparison, *, is_awake: bool
    ) -> list[Answer]:
        began_at = perf_counter()
        try:
            answers = await self._batcher.classify(champion, texts)
        except QueueFullError:
            raise
        except Exception:
            seen.champion.failed()
            raise
        if _is_whole(answers):
            seen.champion.answered(perf_counter() - began_at if is_awake else None)
        else:
            seen.champion.failed()
        return answers

    async def _by_candidate(self, candidate: ServedVersion, texts: list[Text]) -> list[Answer]:
        async with asyncio.timeout(CANDIDATE_LIMIT_S):
            answers = await self._batcher.classify(candidate, texts)
        if not _is_whole(answers):
            raise ServingError("a score is not a number")
        return answers

    def _compare_later(
        self, other: ServedVersion, texts: Sequence[Text], answers: Sequence[Answer], seen: Comparison
    ) -> None:
        """Asks the other version too, in the background; one request at a time, so a busy endpoint skips some."""
        if self._comparing is not None and not self._comparing.done():
            return
        # In a context of its own: Serve cancels the calls that were made in the context of a cancelled request.
        self._comparing = asyncio.create_task(
            self._compare(other, list(texts[:MAX_BATCH_SIZE]), answers, seen), context=contextvars.Context()
        )

    async def _compare(
        self, other: ServedVersion, texts: list[Text], answers: Sequence[Answer], seen: Comparison
    ) -> None:
        is_candidate = other == self._candidate
        began_at = perf_counter()
        try:
            async with asyncio.timeout(CANDIDATE_LIMIT_S):
                others = await self._backend.classify(self._name, other, texts)
        except Exception:  # as above
            others = []
        if not others or not _is_whole(others):
            if is_candidate:  # the champion's failures are counted where clients meet them
                seen.candidate.failed()
            return
        if is_candidate:
            seen.candidate.answered(perf_counter() - began_at)
        # Of a long request only the first batch was asked again.
        same = [ours["label"] == theirs["label"] for ours, theirs in zip(answers, others, strict=False)]
        seen.compared(sum(same) / len(same))

    def _new_comparison(self) -> Comparison:
        return Comparison(self.settings.min_requests, self.settings.min_agreement)

    def _health(self, state: CanaryState, reason: str | None) -> CanaryHealth:
        settings, seen = self.settings, self.comparison
        return CanaryHealth(
            mode=settings.mode,
            percent=settings.percent,
            state=state,
            reason=reason,
            compared=seen.num_compared,
            min_requests=settings.min_requests,
            agreement=seen.agreement,
            min_agreement=settings.min_agreement,
            champion=_version_health(self._champion.version if self._champion else None, seen.champion),
            candidate=_version_health(settings.version, seen.candidate),
            started_at=settings.started_at,
            problem=self.problem,
        )


def draws(request_id: str, settings: CanarySettings) -> bool:
    """Whether the candidate is asked: a hash of the request's id decides, so a repeated request meets it again."""
    digest = hashlib.sha256(f"{settings.started_at} {request_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < settings.percent / 100 * 2**64


def _is_whole(answers: Sequence[Answer]) -> bool:
    """Whether every text has a score that is a number; replicas say NaN for one that the model fails on."""
    return all(answer["score"] == answer["score"] for answer in answers)


def _version_health(version: int | None, side: Side) -> VersionHealth:
    return VersionHealth(
        version=version,
        requests=side.num_requests,
        error_rate=side.error_rate,
        latency_p50_s=side.latency_s(0.5),
        latency_p95_s=side.latency_s(0.95),
    )
