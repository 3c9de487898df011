"""Load that rises and falls on an HTTP endpoint, and what the endpoint did in each second of it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import aiohttp
import numpy as np

from scripts.load import NO_ANSWER, PAUSE_AFTER_LOSS_S, TIMEOUT_S

LOOK_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Stage:
    """So many connections, each with one request open at a time, for so long."""

    connections: int
    seconds: float


@dataclass(frozen=True)
class Request:
    """When it was answered, after how long, and how; `at_s` is since the load began."""

    at_s: float
    latency_s: float
    status: int


@dataclass(frozen=True)
class Look:
    """What the endpoint's health told."""

    at_s: float
    replicas: int


@dataclass(frozen=True)
class Course:
    """All that happened."""

    stages: tuple[Stage, ...]
    requests: tuple[Request, ...]
    looks: tuple[Look, ...]

    @property
    def seconds(self) -> float:
        """From the beginning to the last look."""
        return self.looks[-1].at_s if self.looks else 0.0

    def num_failed(self) -> int:
        """Requests that were answered with something else than 200."""
        return sum(request.status != 200 for request in self.requests)

    def per_s(self, width_s: float) -> tuple[list[float], list[float]]:
        """Middles of spans of `width_s`, and the requests a second that were answered with 200 in each."""
        edges = np.arange(0.0, self.seconds + width_s, width_s)
        counts, _ = np.histogram([request.at_s for request in self.requests if request.status == 200], edges)
        return (edges[:-1] + width_s / 2).tolist(), (counts / width_s).tolist()

    def latency_ms(self, width_s: float, share: float) -> tuple[list[float], list[float]]:
        """Middles of those spans with answers, and that quantile of the time to an answer in each."""
        by_span: dict[int, list[float]] = {}
        for request in self.requests:
            by_span.setdefault(int(request.at_s // width_s), []).append(request.latency_s * 1000)
        spans = sorted(by_span)
        return [(span + 0.5) * width_s for span in spans], [float(np.quantile(by_span[s], share)) for s in spans]

    def first_s(self, replicas: int) -> float | None:
        """When there were at least so many replicas for the first time."""
        return next((look.at_s for look in self.looks if look.replicas >= replicas), None)

    def asleep_after_s(self) -> float | None:
        """Seconds from the last answer to a look that found no replica."""
        last = max((request.at_s for request in self.requests), default=0.0)
        return next((look.at_s - last for look in self.looks if look.at_s > last and look.replicas == 0), None)


def varying_load(url: str, bodies: Sequence[bytes], stages: Sequence[Stage], *, asleep_within_s: float) -> Course:
    """Posts the JSON `bodies` in turn to `url`/classify, and watches the endpoint until it sleeps, or for so long."""
    return asyncio.run(_Run(url, bodies, stages, asleep_within_s).course())


class _Run:
    def __init__(self, url: str, bodies: Sequence[bytes], stages: Sequence[Stage], asleep_within_s: float) -> None:
        self._url = url
        self._bodies = bodies
        self._stages = stages
        self._ends_s = list(accumulate(stage.seconds for stage in stages))
        self._asleep_within_s = asleep_within_s
        self._requests: list[Request] = []
        self._looks: list[Look] = []
        self._began_at = 0.0
        self._turn = 0

    async def course(self) -> Course:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        headers = {"content-type": "application/json"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=headers) as session:
            self._began_at = time.perf_counter()
            most = max(stage.connections for stage in self._stages)
            await asyncio.gather(self._watch(session), *(self._connection(session, number) for number in range(most)))
        return Course(tuple(self._stages), tuple(self._requests), tuple(self._looks))

    def _now_s(self) -> float:
        return time.perf_counter() - self._began_at

    async def _connection(self, session: aiohttp.ClientSession, number: int) -> None:
        begins_s = 0.0
        for stage, ends_s in zip(self._stages, self._ends_s, strict=True):
            if number < stage.connections:
                await asyncio.sleep(begins_s - self._now_s())
                while self._now_s() < ends_s:
                    await self._ask(session)
            begins_s = ends_s

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        body = self._bodies[self._turn % len(self._bodies)]
        self._turn += 1
        asked_s = self._now_s()
        try:
            async with session.post(f"{self._url}/classify", data=body) as response:
                await response.read()
            status = response.status
        except (aiohttp.ClientError, TimeoutError):
            status = NO_ANSWER
            await asyncio.sleep(PAUSE_AFTER_LOSS_S)
        self._requests.append(Request(self._now_s(), self._now_s() - asked_s, status))

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        ends_s = self._ends_s[-1]
        while self._now_s() < ends_s + self._asleep_within_s:
            async with session.get(f"{self._url}/healthz") as response:
                replicas = int((await response.json())["replicas"])
            self._looks.append(Look(self._now_s(), replicas))
            if replicas == 0 and self._now_s() > ends_s:
                return
            await asyncio.sleep(LOOK_INTERVAL_S)
