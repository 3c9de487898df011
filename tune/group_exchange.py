"""What a trial and the workers of its group tell each other.

An exchange runs as a Ray actor, so that the workers reach it from any node; this module is all it imports.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class GroupTask:
    """One trial, as the workers need it."""

    prepared_uri: str
    settings: dict[str, Any]
    """Of the fine-tuning (`common.recipe.Train`)."""
    lora: dict[str, Any] | None
    """Of the adapters (`common.recipe.Lora`)."""
    num_threads: int
    folder: str
    """Path or URL that gets a folder for each epoch's checkpoint."""
    resume_from: str | None
    """A checkpoint of the same trial."""


@dataclass(frozen=True)
class GroupEvent:
    """What the workers tell of a trial: an epoch that has ended, or, without metrics, the end of the trial."""

    metrics: dict[str, float] | None = None
    checkpoint: str | None = None
    failure: str | None = None
    """Why training cannot work."""
    not_stored: str | None = None
    """Why a checkpoint could not be stored."""


class GroupExchange:
    """Trials have numbers, from 1 in the order in which the group trains them.

    Workers that replace lost ones ask for a trial that is still open like those before them, and get it with the
    newest checkpoint.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._number = 0
        self._task: GroupTask | None = None
        self._controller: Any = None
        self._is_closed = False
        self._events: list[GroupEvent] = []
        self._answers: dict[int, bool] = {}

    async def assign(self, task: GroupTask) -> None:
        """Hands the group its next trial."""
        self._number += 1
        self._task = task
        self._events.clear()
        self._answers.clear()
        await self._notify()

    async def next_event(self) -> GroupEvent:
        """What the workers tell next."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._events or self._is_closed)
            return self._events.pop(0) if self._events else GroupEvent(failure="the sweep has ended")

    async def answer(self, epoch: int, go_on: bool) -> None:
        """Lets the workers, which wait for it after each epoch, go on or stop the trial."""
        self._answers[epoch] = go_on
        await self._notify()

    async def introduce(self, controller: Any) -> None:
        """Notes the actor that controls the group."""
        self._controller = controller

    async def close(self) -> Any:
        """No more trials will come: workers that wait for one go home. Returns the actor that controls the group."""
        self._is_closed = True
        await self._notify()
        return self._controller

    async def next_task(self, after: int) -> tuple[int, GroupTask] | None:
        """The trial that is open and its number, once that is above the number of the one the worker trained last.

        None when no trial will come.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_closed or (self._task and self._number > after))
            return (self._number, self._task) if self._task and self._number > after else None

    async def report(
        self, number: int, epoch: int, metrics: dict[str, float] | None = None, checkpoint: str | None = None
    ) -> bool:
        """Tells that an epoch has ended, from all workers and with metrics from one; returns whether to go on."""
        if metrics is not None and self._task is not None:
            self._task = replace(self._task, resume_from=checkpoint)
            self._events.append(GroupEvent(metrics, checkpoint))
            await self._notify()
        async with self._changed:
            await self._changed.wait_for(lambda: epoch in self._answers or number != self._number or not self._task)
            return self._answers.get(epoch, False)

    async def end(self, event: GroupEvent) -> None:
        """Tells that the trial has ended; from one worker."""
        self._task = None
        self._events.append(event)
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
