"""Constant load on an HTTP endpoint: some connections, each with one request open at a time."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
import numpy as np

WARM_UP_S = 1.0
TIMEOUT_S = 120.0
NO_ANSWER = 0
"""Stands for the status of a request whose connection was lost, or that took too long."""
PAUSE_AFTER_LOSS_S = 0.1


@dataclass
class Load:
    """What the endpoint did in the time that counts."""

    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def per_s(self) -> float:
        """Requests answered with 200 a second."""
        return self.statuses[200] / self.seconds

    def quantile_ms(self, share: float) -> float:
        """That quantile of the time to an answer; NaN when there was none."""
        if not self.latencies_s:
            return math.nan
        return float(np.quantile(self.latencies_s, share)) * 1000

    def __str__(self) -> str:
        bad = sum(self.statuses.values()) - self.statuses[200]
        return (
            f"{self.per_s:7.1f} requests/s   p50 {self.quantile_ms(0.5):7.1f} ms   p99 {self.quantile_ms(0.99):7.1f} ms"
            + (f"   {bad} not answered with 200: {dict(self.statuses)}" if bad else "")
        )


def load(url: str, bodies: Sequence[bytes], *, connections: int, seconds: float) -> Load:
    """Posts the JSON `bodies` in turn for so long, after one request and a second that do not count."""
    return asyncio.run(_load(url, bodies, connections, seconds))


async def _load(url: str, bodies: Sequence[bytes], connections: int, seconds: float) -> Load:
    result = Load(seconds)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=connections)
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=headers) as session:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.post(url, data=bodies[0]) as response:  # the first one of some servers takes seconds
                await response.read()
        begins = time.perf_counter() + WARM_UP_S
        ends = begins + seconds

        async def connection(number: int) -> None:
            while (started := time.perf_counter()) < ends:
                body = bodies[number % len(bodies)]
                number += connections
                try:
                    async with session.post(url, data=body) as response:
                        await response.read()
                    status = response.status
                except (aiohttp.ClientError, TimeoutError):
                    status = NO_ANSWER
                    await asyncio.sleep(PAUSE_AFTER_LOSS_S)
                ended = time.perf_counter()
                if started >= begins and ended <= ends:
                    result.statuses[status] += 1
                    if status != NO_ANSWER:
                        result.latencies_s.append(ended - started)

        await asyncio.gather(*(connection(number) for number in range(connections)))
    return result
