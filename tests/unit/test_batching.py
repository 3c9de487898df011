import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.batching import MAX_BATCH_SIZE, Answer, Batcher, QueueFullError, ServedVersion

V1, V2 = ServedVersion(1, "/v1"), ServedVersion(2, "/v2")


class FakeReplicas:
    """Answers each text with itself, when it is allowed to."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.batches: list[tuple[int, list[str]]] = []
        self.num_cancelled = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        if is_open:
            self.gate.set()

    async def send(self, served: ServedVersion, texts: list[str]) -> list[Answer]:
        self.batches.append((served.version, texts))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if self.error:
            raise self.error
        return [{"label": text, "version": served.version} for text in texts]


def make(replicas: FakeReplicas, *, max_waiting: int = 1000, max_replicas: int = 1) -> Batcher:
    return Batcher(replicas.send, max_waiting=max_waiting, batches_per_replica=2, max_replicas=max_replicas)


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


@given(st.lists(st.integers(min_value=1, max_value=3 * MAX_BATCH_SIZE), min_size=1, max_size=12))
def test_every_text_gets_its_own_answer_whatever_the_batches(sizes: list[int]) -> None:
    async def scenario() -> None:
        replicas = FakeReplicas()
        batcher = make(replicas, max_waiting=sum(sizes))
        requests = [[f"{number}-{row}" for row in range(size)] for number, size in enumerate(sizes)]

        answers = await asyncio.gather(*(batcher.classify(V1, texts) for texts in requests))

        assert [[answer["label"] for answer in found] for found in answers] == requests
        assert max(len(texts) for _, texts in replicas.batches) <= MAX_BATCH_SIZE
        assert batcher.num_waiting == 0

    run(scenario)


def test_texts_that_wait_together_go_together() -> None:
    async def scenario() -> None:
        replicas = FakeReplicas(is_open=False)
        batcher = make(replicas)
        requests = [asyncio.create_task(batcher.classify(V1, [str(number)])) for number in range(10)]
        await settle()
        replicas.gate.set()
        await asyncio.gather(*requests)

        assert [len(texts) for _, texts in replicas.batches] == [1, 1, 8]

    run(scenario)


def test_a_batch_has_one_version() -> None:
    async def scenario() -> None:
        replicas = FakeReplicas(is_open=False)
        batcher = make(replicas)
        requests = [
            asyncio.create_task(batcher.classify(served, [str(number)]))
            for number, served in enumerate([V1, V1, V1, V1, V2, V2])
        ]
        await settle()
        replicas.gate.set()
        answers = await asyncio.gather(*requests)

        assert [found[0]["version"] for found in answers] == [1, 1, 1, 1, 2, 2]
        assert [version for version, _ in replicas.batches] == [1, 1, 1, 2]

    run(scenario)


def test_requests_of_two_versions_that_alternate_go_in_one_batch_each_and_in_their_order() -> None:
    async def scenario() -> None:
        replicas = FakeReplicas(is_open=False)
        batcher = make(replicas)
        first = [asyncio.create_task(batcher.classify(V1, [f"first {number}"])) for number in range(2)]
        await settle()  # which takes both slots
        waiting = [
            asyncio.create_task(batcher.classify(version, [f"{version.version}-{number}"]))
            for number in range(3)
            for version in (V1, V2)
        ]
        await settle()
        replicas.gate.set()
        await asyncio.gather(*first, *waiting)

        assert replicas.batches[2:] == [(1, ["1-0", "1-1", "1-2"]), (2, ["2-0", "2-1", "2-2"])]

    run(scenario)


def test_more_texts_than_may_wait_are_refused_and_the_others_are_answered() -> None:
    async def scenario() -> None:
        replicas = FakeReplicas(is_open=False)
        batcher = make(replicas, max_waiting=5)
        accepted = asyncio.create_task(batcher.classify(V1, list("abc")))
        await settle()
        with pytest.raises(QueueFullError):
            await batcher.classify(V1, list("def"))
        replicas.gate.set()

        assert len(await accepted) == 3
        assert len(await batcher.classify(V1, list("defgh"))) == 5

    run(scenario)


def test_only_full_batches_ask_for_more_replicas() -> None:
    async def open_calls(num_requests: int) -> int:
        replicas = FakeReplicas(is_open=False)
        batcher = make(replicas, max_replicas=3)
        batcher.num_replicas = 1
        requests = [asyncio.create_task(batcher.classify(V1, ["x"])) for _ in range(num_requests)]
        await settle()
        num_open = len(replicas.batches)
        replicas.gate.set()
        await asyncio.gather(*requests)
        return num_open

    async def scenario() -> None:
        assert await open_calls(2 + MAX_BATCH_SIZE - 1) == 2
        assert await open_calls(2 + MAX_BATCH_SIZE) == 3
        assert await open_calls(900) == 6

    run(scenario)


def test_a_failure_reaches_every_caller_of_the_batch_and_no_other() -> None:
    async def scenario() -> None:
        replicas = FakeReplicas()
        replicas.error = ValueError("broken")
        batcher = make(replicas)
        failed = await asyncio.gather(
            batcher.classify(V1, ["a"]), batcher.classify(V1, ["b"] * 3 * MAX_BATCH_SIZE), return_exceptions=True
        )
        replicas.error = None

        assert [str(error) for error in failed] == ["broken", "broken"]
        assert len(await batcher.classify(V1, ["c"])) == 1
        assert batcher.num_waiting == 0

    run(scenario)


def test_a_caller_that_leaves_takes_only_its_own_texts() -> None:
    async def scenario() -> None:
        replicas = FakeReplicas(is_open=False)
        batcher = make(replicas)
        requests = [asyncio.create_task(batcher.classify(V1, [str(number)])) for number in range(5)]
        await settle()
        for left in (requests[0], requests[3]):  # one in flight, one still queued
            left.cancel()
        await settle()
        assert batcher.num_waiting == 3
        assert replicas.num_cancelled == 1  # nobody waits for that batch any more
        replicas.gate.set()
        answers = await asyncio.gather(requests[1], requests[2], requests[4])

        assert [found[0]["label"] for found in answers] == ["1", "2", "4"]
        assert "3" not in [text for _, texts in replicas.batches for text in texts]

    run(scenario)


def test_a_batch_runs_outside_the_context_of_the_request_that_started_it() -> None:
    request = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    async def send(served: ServedVersion, texts: list[str]) -> list[Answer]:
        seen.append(request.get())
        return [{} for _ in texts]

    async def scenario() -> None:
        request.set("mine")
        await Batcher(send, max_waiting=9, batches_per_replica=1, max_replicas=1).classify(V1, ["a"])

    run(scenario)
    assert seen == ["none"]


def test_closing_fails_what_waits() -> None:
    async def scenario() -> None:
        replicas = FakeReplicas(is_open=False)
        batcher = make(replicas)
        requests = [asyncio.create_task(batcher.classify(V1, [str(number)])) for number in range(5)]
        await settle()
        batcher.close(LookupError("gone"))
        errors = await asyncio.gather(*requests, return_exceptions=True)

        assert [str(error) for error in errors] == ["gone"] * 5

    run(scenario)


def test_order_is_kept_between_batches() -> None:
    async def scenario() -> None:
        replicas = FakeReplicas(is_open=False)
        batcher = make(replicas)
        requests = [asyncio.create_task(batcher.classify(V1, [f"{number:03}"])) for number in range(200)]
        await settle()
        replicas.gate.set()
        await asyncio.gather(*requests)
        sent = [text for _, texts in replicas.batches for text in texts]

        assert all(before < after for before, after in pairwise(sent))

    run(scenario)
