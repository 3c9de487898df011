"""Constant load through the shipped client, with every answer held against the one that is known to be right."""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self

import httpx

from common.classifier import Classifier, Prediction
from common.errors import ServingError
from serve.client import AsyncClient, ClientError
from serve.client import Prediction as Answer

LEAST_TOLERANCE = 1e-3
"""By how much a score may differ from the engine's at least; the order of a sum is nobody's promise."""

FIRST_ANSWER_TIMEOUT_S = 120.0

Problem = Literal["lost", "wrong"]


@dataclass(frozen=True)
class Question:
    """A text and the answer to it, by the bare engine."""

    text: str
    expected: Prediction
    tolerance: float

    def is_answered_by(self, answer: Answer) -> bool:
        """Whether the label and every score are those that are expected."""
        scores = self.expected.scores
        return (
            answer.label == self.expected.label
            and answer.scores.keys() == scores.keys()
            and all(abs(answer.scores[label] - scores[label]) <= self.tolerance for label in scores)
        )


def questions(classifier: Classifier, texts: Sequence[str]) -> list[Question]:
    """Those of `texts` whose label no permitted difference could turn. Raises `ServingError` when there are none.

    Neighbours in a batch move a score: much in int8, where the scale of a layer's input is that of the whole batch. How
    much is found out here, by classifying each text alone and among the others.
    """
    alone = [classifier.classify([text])[0] for text in texts]
    among_others = classifier.classify(texts)
    moved = max(
        abs(one.scores[label] - other.scores[label])
        for one, other in zip(alone, among_others, strict=True)
        for label in one.scores
    )
    tolerance = LEAST_TOLERANCE + 2 * moved
    found = [
        Question(text, expected, tolerance)
        for text, expected in zip(texts, alone, strict=True)
        if _margin(expected) > 2 * tolerance
    ]
    if not found:
        raise ServingError(
            f"the model is sure of none of {len(texts)} texts, whose neighbours move its scores by up to {moved:.3f}; "
            "train it for longer"
        )
    return found


def _margin(prediction: Prediction) -> float:
    second, best = sorted(prediction.scores.values())[-2:]
    return best - second


@dataclass(frozen=True)
class Outcome:
    """What became of one question; times are of `time.monotonic`."""

    asked_at: float
    ended_at: float
    num_repetitions: int
    problem: Problem | None = None
    words: str = ""


@dataclass(frozen=True)
class Report:
    """What became of the questions that were open in a span of time."""

    num_answered: int
    lost: tuple[str, ...]
    wrong: tuple[str, ...]
    num_repetitions: int
    longest_gap_s: float
    """Between two answers, whoever asked."""
    slowest_s: float
    """From a question to its answer."""


def report(outcomes: Sequence[Outcome], begins_at: float, ends_at: float) -> Report:
    """About the questions that were open at any time from `begins_at` to `ends_at`."""
    inside = [each for each in outcomes if each.ended_at >= begins_at and each.asked_at <= ends_at]
    good = [each for each in inside if each.problem is None]
    moments = sorted([begins_at, ends_at, *(each.ended_at for each in good if each.ended_at <= ends_at)])
    return Report(
        num_answered=len(good),
        lost=tuple(each.words for each in inside if each.problem == "lost"),
        wrong=tuple(each.words for each in inside if each.problem == "wrong"),
        num_repetitions=sum(each.num_repetitions for each in inside),
        longest_gap_s=max(after - before for before, after in pairwise(moments)),
        slowest_s=max((each.ended_at - each.asked_at for each in good), default=0.0),
    )


class CheckedLoad:
    """Asks the endpoint at `url` `per_s` questions a second over some connections, while the context lasts.

    A connection that waits for an answer asks nothing else, so an endpoint that answers nobody gets `connections`
    questions and their repetitions.
    """

    def __init__(
        self, url: str, asked: Sequence[Question], *, connections: int = 8, per_s: float = 40.0, timeout_s: float = 90.0
    ) -> None:
        self._url = url
        self._asked = asked
        self._connections = connections
        self._interval_s = connections / per_s
        self._timeout_s = timeout_s
        self._outcomes: list[Outcome] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="checked load")

    def __enter__(self) -> Self:
        """Begins; returns when the first answer is there, since an endpoint that sleeps wakes first."""
        self._thread.start()
        deadline = time.monotonic() + FIRST_ANSWER_TIMEOUT_S
        while not self._outcomes:
            if time.monotonic() > deadline:
                self.__exit__()
                raise ServingError(f"{self._url} gave no answer within {FIRST_ANSWER_TIMEOUT_S:.0f} s")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends when what has been asked has been answered."""
        self._is_over.set()
        self._thread.join()

    def outcomes(self) -> list[Outcome]:
        """Of the questions that are answered, or given up, by now."""
        return list(self._outcomes)

    async def _run(self) -> None:
        began_at = time.monotonic()
        await asyncio.gather(*(self._ask_in_turn(number, began_at) for number in range(self._connections)))

    async def _ask_in_turn(self, number: int, began_at: float) -> None:
        transport = _CountingTransport()
        next_at = began_at + number * self._interval_s / self._connections
        turn = number
        async with AsyncClient(self._url, timeout_s=self._timeout_s, transport=transport) as client:
            while not self._is_over.is_set():
                await asyncio.sleep(next_at - time.monotonic())
                self._outcomes.append(await _outcome(client, transport, self._asked[turn % len(self._asked)]))
                turn += self._connections
                next_at = max(next_at + self._interval_s, time.monotonic())


class _CountingTransport(httpx.AsyncHTTPTransport):
    """Counts what the client sends: its repetitions are its own affair."""

    def __init__(self) -> None:
        super().__init__()
        self.num_sent = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.num_sent += 1
        return await super().handle_async_request(request)


async def _outcome(client: AsyncClient, transport: _CountingTransport, question: Question) -> Outcome:
    asked_at, sent_before = time.monotonic(), transport.num_sent
    problem: Problem | None = None
    words = ""
    try:
        answer = await client.classify(question.text)
    except ClientError as error:
        problem, words = "lost", str(error)
    else:
        if not question.is_answered_by(answer):
            problem, words = "wrong", f"{question.text!r}: {answer.scores} and not {question.expected.scores}"
    return Outcome(asked_at, time.monotonic(), transport.num_sent - sent_before - 1, problem, words)
