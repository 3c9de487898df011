"""Jobs take what requests leave, and requests do not notice."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serve import leftover
from serve.batching import Answer, Batcher, ServedVersion
from serve.leftover import Leftover

V1 = ServedVersion(1, "/v1")


class World:
    """Replicas that answer when they are told to, with requests and jobs before them."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.batcher = Batcher(self.send, max_waiting=8, batches_per_replica=1.0, max_replicas=1)
        self.batcher.num_replicas = 1
        self.leftover = Leftover(self.send, self.batcher)
        self.tasks: list[asyncio.Task[list[Answer]]] = []

    async def send(self, served: ServedVersion, texts: list[str]) -> list[Answer]:
        self.sent.append(texts[0])
        await self.gates.setdefault(texts[0], asyncio.Event()).wait()
        return [{"label": text} for text in texts]

    def answer(self, text: str) -> None:
        self.gates.setdefault(text, asyncio.Event()).set()

    def ask(self, text: str) -> asyncio.Task[list[Answer]]:
        return self._start(self.batcher.classify(V1, [text]))

    def work(self, text: str) -> asyncio.Task[list[Answer]]:
        return self._start(self.leftover.classify(V1, [text]))

    def _start(self, asking: Awaitable[list[Answer]]) -> asyncio.Task[list[Answer]]:
        self.tasks.append(asyncio.ensure_future(asking))
        return self.tasks[-1]


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes no time, quiet is quiet at once, and nothing begins for having waited."""
    monkeypatch.setattr(leftover, "LOOK_INTERVAL_S", 0.0)
    monkeypatch.setattr(leftover, "QUIET_S", 1e-12)
    monkeypatch.setattr(leftover, "AT_LEAST_EVERY_S", 3600.0)


def run(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def within() -> None:
        world = World()
        world.leftover._began_at = asyncio.get_running_loop().time()
        await scenario(world)
        for task in world.tasks:
            task.cancel()
        await asyncio.gather(*world.tasks, return_exceptions=True)

    asyncio.run(within())


async def settle() -> None:
    """Lets every task that can run do so, and timers of no time ring."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_a_job_waits_while_requests_are_at_work_and_goes_on_behind_them() -> None:
    async def scenario(world: World) -> None:
        world.ask("request")
        await settle()
        job = world.work("job")
        await settle()
        assert world.sent == ["request"]

        world.answer("request")
        world.answer("job")
        assert await job == [{"label": "job"}]

    run(scenario)


def test_a_request_finds_a_slot_however_many_jobs_wait() -> None:
    async def scenario(world: World) -> None:
        for number in range(20):
            world.work(f"job {number}")
        await settle()
        world.ask("request")
        await settle()

        assert world.sent == ["job 0", "request"]

    run(scenario)


def test_jobs_do_not_take_the_places_of_requests_that_wait() -> None:
    async def scenario(world: World) -> None:
        for number in range(20):
            world.work(f"job {number}")
        await settle()

        assert world.batcher.num_waiting == 0
        assert world.leftover.num_waiting == 20

    run(scenario)


def test_each_replica_has_one_batch_of_jobs_at_a_time_in_the_order_they_came() -> None:
    async def scenario(world: World) -> None:
        world.batcher.num_replicas = 2
        for number in range(4):
            world.work(f"job {number}")
        await settle()
        assert world.sent == ["job 0", "job 1"]

        world.answer("job 1")
        await settle()
        assert world.sent == ["job 0", "job 1", "job 2"]

    run(scenario)


def test_requests_that_are_never_quiet_still_let_a_job_through(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        world.ask("request")
        await settle()
        world.work("job")
        await settle()
        assert world.sent == ["request"]

        monkeypatch.setattr(leftover, "AT_LEAST_EVERY_S", 0.0)
        await settle()
        assert world.sent == ["request", "job"]

    run(scenario)


def test_a_client_that_asks_one_after_another_finds_no_job_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftover, "QUIET_S", 3600.0)

    async def scenario(world: World) -> None:
        world.answer("request")
        await world.ask("request")
        world.work("job")
        await settle()

        assert world.sent == ["request"]

    run(scenario)


def test_a_batch_that_fails_gives_its_turn_to_the_next() -> None:
    async def scenario(world: World) -> None:
        first = world.work("first")
        second = world.work("second")
        await settle()
        first.cancel()
        world.answer("second")

        assert await second == [{"label": "second"}]
        assert world.leftover.num_waiting == 0

    run(scenario)
