"""Whose turn it is, where several keys wait for one lock."""

import asyncio
from collections.abc import Awaitable, Callable

from serve.turns import Turns

Worker = Callable[[str], asyncio.Task[None]]


def run(scenario: Callable[[Worker, list[str], Turns], Awaitable[None]]) -> list[str]:
    """What got its turn, in order; a worker named `a1` waits for the key `a`."""
    order: list[str] = []

    async def main() -> None:
        turns = Turns()

        async def work(name: str) -> None:
            async with turns.take(name[0]):
                order.append(name)
                await asyncio.sleep(0)

        await scenario(lambda name: asyncio.create_task(work(name)), order, turns)

    asyncio.run(main())
    return order


def test_a_key_with_many_waiting_lets_each_other_key_in_between() -> None:
    async def scenario(start: Worker, order: list[str], turns: Turns) -> None:
        await asyncio.gather(*map(start, ["a1", "a2", "a3", "a4", "b1", "c1", "b2"]))

    assert run(scenario) == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


def test_one_that_leaves_the_queue_takes_nobodys_turn() -> None:
    async def scenario(start: Worker, order: list[str], turns: Turns) -> None:
        async with turns.take("x"):
            first, second = start("a1"), start("b1")
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.sleep(0)
        await second

    assert run(scenario) == ["b1"]


def test_one_that_leaves_when_its_turn_has_come_passes_it_on() -> None:
    async def scenario(start: Worker, order: list[str], turns: Turns) -> None:
        async with turns.take("x"):
            first, second = start("a1"), start("b1")
            await asyncio.sleep(0)
        first.cancel()  # before it could run
        await second
        async with turns.take("x"):  # free again
            order.append("x1")

    assert run(scenario) == ["b1", "x1"]


def test_who_comes_when_a_turn_was_just_passed_on_does_not_hold_it_as_well() -> None:
    async def scenario(start: Worker, order: list[str], turns: Turns) -> None:
        num_inside = 0

        async def inside() -> None:
            nonlocal num_inside
            async with turns.take("k"):
                num_inside += 1
                assert num_inside == 1
                await asyncio.sleep(0)
                num_inside -= 1

        await asyncio.gather(*(inside() for _ in range(5)))
        await asyncio.gather(inside(), inside())

    run(scenario)
