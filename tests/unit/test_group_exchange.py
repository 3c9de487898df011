"""What a trial and its group's workers tell each other, and who waits for whom."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from tune.group_exchange import GroupEvent, GroupExchange, GroupTask

EPOCH = {"epoch": 1, "accuracy": 0.5}


def task(name: str = "trial-0") -> GroupTask:
    return GroupTask("/prepared", {}, None, num_threads=1, folder=f"/groups/{name}", resume_from=None)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, timeout=10))


async def waits(pending: "asyncio.Task[Any]") -> bool:
    for _ in range(10):
        await asyncio.sleep(0)
    return not pending.done()


def test_workers_wait_for_a_trial_and_each_trains_it_once() -> None:
    async def scenario() -> None:
        exchange = GroupExchange()
        workers = [asyncio.create_task(exchange.next_task(after=0)) for _ in range(2)]
        assert await waits(workers[0])
        await exchange.assign(task())
        assert [await worker for worker in workers] == [(1, task()), (1, task())]
        fast = asyncio.create_task(exchange.next_task(after=1))  # done before the others: not a second time
        assert await waits(fast)
        await exchange.end(GroupEvent())
        await exchange.assign(task("trial-1"))
        assert await fast == (2, task("trial-1"))

    run(scenario())


def test_after_an_epoch_all_workers_wait_for_the_trial_to_say_go_on_or_stop() -> None:
    async def scenario() -> None:
        exchange = GroupExchange()
        await exchange.assign(task())
        for epoch, go_on in ((1, True), (2, False)):
            metrics = {**EPOCH, "epoch": epoch}
            workers = [
                asyncio.create_task(exchange.report(1, epoch)),
                asyncio.create_task(exchange.report(1, epoch, metrics, f"/epoch-{epoch}")),
            ]
            assert await exchange.next_event() == GroupEvent(metrics, f"/epoch-{epoch}")
            assert await waits(workers[0])
            await exchange.answer(epoch, go_on)
            assert [await worker for worker in workers] == [go_on, go_on]

    run(scenario())


def test_workers_that_replace_lost_ones_go_on_from_the_newest_checkpoint() -> None:
    async def scenario() -> None:
        exchange = GroupExchange()
        await exchange.assign(task())
        lost = asyncio.create_task(exchange.report(1, 1, EPOCH, "/epoch-1"))
        assert await waits(lost)
        lost.cancel()
        assigned = await exchange.next_task(after=0)
        assert assigned is not None
        assert assigned[1].resume_from == "/epoch-1"

    run(scenario())


def test_when_a_worker_ends_the_trial_the_others_are_stopped() -> None:
    async def scenario() -> None:
        exchange = GroupExchange()
        await exchange.assign(task())
        other = asyncio.create_task(exchange.report(1, 1))
        assert await waits(other)
        await exchange.end(GroupEvent(not_stored="the disk is full"))
        assert await other is False
        assert (await exchange.next_event()).not_stored == "the disk is full"

    run(scenario())


def test_a_closed_exchange_sends_the_workers_home_and_the_trial_away() -> None:
    async def scenario() -> None:
        exchange = GroupExchange()
        await exchange.introduce("the controller")
        worker = asyncio.create_task(exchange.next_task(after=0))
        trial = asyncio.create_task(exchange.next_event())
        assert await waits(worker)
        assert await exchange.close() == "the controller"
        assert await worker is None
        assert (await trial).failure == "the sweep has ended"

    run(scenario())


def test_a_wait_that_would_not_end_is_seen() -> None:
    async def scenario() -> None:
        await asyncio.wait_for(GroupExchange().next_task(after=0), timeout=0.01)

    with pytest.raises(TimeoutError):
        run(scenario())
