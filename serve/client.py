"""A client for a tuneserve endpoint. One file to copy into any project: it needs httpx and nothing else.

    with Client("http://127.0.0.1:8000/quickstart") as client:
        print(client.classify("Profits doubled").label)

What it raises:

    ClientError
    ├── RefusedError        the endpoint refuses this request, or fails on it; the same request would fare the same
    ├── UnavailableError    no answer within `timeout_s`, however often it was asked
    ├── JobFailedError      the texts that were handed in could not be classified
    └── AnswerError         what answered does not speak this protocol
"""

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import httpx

MAX_TEXTS = 64
"""Texts in one request: what a replica is given at a time."""

MAX_CHARS = 250_000
"""Characters in one request: whatever they are, the body stays below the 4 MiB that the server takes."""

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
LONGEST_PAUSE_AFTER_LOSS_S = 1.0
"""Nobody is there whom asking again could burden, and the endpoint's gateway is back within seconds."""

_WORTH_REPEATING = {429, 502, 503, 504}


class ClientError(Exception):
    """Base of what this client raises."""


class RefusedError(ClientError):
    """The endpoint refuses the request or fails on it; `status` is the HTTP status, the words are the server's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class UnavailableError(ClientError):
    """There was no answer in time; `__cause__` is the last failure to connect, if that was the reason."""


class JobFailedError(ClientError):
    """The job ended without predictions; the words are the server's."""


class AnswerError(ClientError):
    """What answered does not speak this protocol."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of a text; the scores are probabilities and add up to 1."""

    label: str
    score: float
    scores: dict[str, float]
    version: int
    """Of the model that answered."""


class Client:
    """Asks the endpoint at `url` (`http://HOST:PORT/<name>`); may be used from several threads.

    `timeout_s` bounds each request with all its repetitions; the default leaves time for a wake. `transport` is
    httpx's, for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 90.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._http = httpx.Client(headers=_headers(api_key), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def classify(self, text: str) -> Prediction:
        """What the model says of `text`. Raises `ClientError`."""
        (found,) = self._ask([text])
        return found

    def classify_many(self, texts: Iterable[str]) -> Iterator[Prediction]:
        """A prediction for each text, in their order; asked for as they are taken. Raises `ClientError`."""
        for batch in _batches(texts):
            waiting = deque([batch])
            while waiting:
                part = waiting.popleft()
                try:
                    found = self._ask(part)
                except RefusedError as error:
                    waiting.extendleft(_halves(part, error))
                else:
                    yield from found

    def submit(self, texts: Iterable[str]) -> str:
        """Hands in up to 20,000 texts to be classified later; returns the id of that job. Raises `ClientError`.

        After a lost connection they may be there twice, which costs the endpoint a little and nobody else anything.
        """
        return _job_id(self._request("POST", "/jobs", _body(list(texts))))

    def result(self, job_id: str, *, timeout_s: float = 3600.0) -> list[Prediction]:
        """A prediction for each text of a job, in their order; waits for them. Raises `ClientError`.

        `RefusedError` with the status 404 means that they have to be handed in again: a job is kept for an hour after
        its end, and ends with the endpoint's gateway.
        """
        polls = _Polls(job_id, timeout_s)
        while (found := _finished(self._request("GET", f"/jobs/{job_id}"))) is None:
            time.sleep(polls.pause_s())
        return found

    def cancel(self, job_id: str) -> None:
        """Ends a job and has it forgotten, which makes room for others. Raises `ClientError`."""
        self._request("DELETE", f"/jobs/{job_id}")

    def _ask(self, texts: Sequence[str]) -> list[Prediction]:
        return _predictions(self._request("POST", "/classify", _body(texts)), len(texts))

    def _request(self, method: str, path: str, body: bytes = b"") -> httpx.Response:
        attempts = _Attempts(self._timeout_s)
        while True:
            try:
                response = self._http.request(method, self._url + path, content=body, timeout=attempts.left_s())
            except httpx.TransportError as error:
                pause_s = attempts.pause_after_loss(error)
            else:
                if response.is_success:
                    return response
                pause_s = attempts.pause_after_refusal(response)
            time.sleep(pause_s)


class AsyncClient:
    """As `Client`, for asyncio."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 90.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(headers=_headers(api_key), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def classify(self, text: str) -> Prediction:
        """What the model says of `text`. Raises `ClientError`."""
        (found,) = await self._ask([text])
        return found

    async def classify_many(self, texts: Iterable[str]) -> AsyncIterator[Prediction]:
        """A prediction for each text, in their order; asked for as they are taken. Raises `ClientError`."""
        for batch in _batches(texts):
            waiting = deque([batch])
            while waiting:
                part = waiting.popleft()
                try:
                    found = await self._ask(part)
                except RefusedError as error:
                    waiting.extendleft(_halves(part, error))
                else:
                    for prediction in found:
                        yield prediction

    async def submit(self, texts: Iterable[str]) -> str:
        """As `Client.submit`."""
        return _job_id(await self._request("POST", "/jobs", _body(list(texts))))

    async def result(self, job_id: str, *, timeout_s: float = 3600.0) -> list[Prediction]:
        """As `Client.result`."""
        polls = _Polls(job_id, timeout_s)
        while (found := _finished(await self._request("GET", f"/jobs/{job_id}"))) is None:
            await asyncio.sleep(polls.pause_s())
        return found

    async def cancel(self, job_id: str) -> None:
        """As `Client.cancel`."""
        await self._request("DELETE", f"/jobs/{job_id}")

    async def _ask(self, texts: Sequence[str]) -> list[Prediction]:
        return _predictions(await self._request("POST", "/classify", _body(texts)), len(texts))

    async def _request(self, method: str, path: str, body: bytes = b"") -> httpx.Response:
        attempts = _Attempts(self._timeout_s)
        while True:
            try:
                response = await self._http.request(method, self._url + path, content=body, timeout=attempts.left_s())
            except httpx.TransportError as error:
                pause_s = attempts.pause_after_loss(error)
            else:
                if response.is_success:
                    return response
                pause_s = attempts.pause_after_refusal(response)
            await asyncio.sleep(pause_s)


class _Attempts:
    """How often and when one request is repeated: classifying twice changes nothing, so any loss may be."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._num_failed = 0

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return max(0.001, self._deadline - time.monotonic())

    def pause_after_loss(self, error: httpx.TransportError) -> float:
        """Seconds to wait after a lost connection. Raises `UnavailableError` when they are not left."""
        return self._pause(0.0, LONGEST_PAUSE_AFTER_LOSS_S, str(error) or type(error).__name__, error)

    def pause_after_refusal(self, response: httpx.Response) -> float:
        """Seconds to wait after that answer. Raises `RefusedError` when repeating cannot help; `UnavailableError`."""
        message = _problem(response)
        if response.status_code not in _WORTH_REPEATING:
            raise RefusedError(response.status_code, message)
        return self._pause(_retry_after_s(response), LONGEST_PAUSE_S, f"{response.status_code}: {message}", None)

    def _pause(self, at_least_s: float, at_most_s: float, what: str, cause: Exception | None) -> float:
        """Doubling, with full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ ."""
        longest_s = min(at_most_s, FIRST_PAUSE_S * 2**self._num_failed)
        self._num_failed += 1
        pause_s = at_least_s + random.uniform(0, longest_s)
        if time.monotonic() + pause_s >= self._deadline:
            raise UnavailableError(
                f"no answer within {self._timeout_s:g} s, asked {self._num_failed} times; the last time: {what}"
            ) from cause
        return pause_s


class _Polls:
    """When a job is looked at again."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        self._job_id = job_id
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._next_s = FIRST_PAUSE_S

    def pause_s(self) -> float:
        """Seconds to wait. Raises `UnavailableError` when they are not left."""
        pause_s, self._next_s = self._next_s, min(LONGEST_PAUSE_S, 1.5 * self._next_s)
        if time.monotonic() + pause_s >= self._deadline:
            raise UnavailableError(
                f"job {self._job_id} has not ended within {self._timeout_s:g} s; ask for its result again later"
            )
        return pause_s


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})


def _body(texts: Sequence[str]) -> bytes:
    try:
        return json.dumps({"texts": texts}, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RefusedError(422, f"a text is not Unicode: {error.reason} at character {error.start}") from error


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in their order, at most `MAX_TEXTS` and, unless it is one, `MAX_CHARS` together."""
    batch: list[str] = []
    num_chars = 0
    for text in texts:
        if batch and (len(batch) == MAX_TEXTS or num_chars + len(text) > MAX_CHARS):
            yield batch
            batch, num_chars = [], 0
        batch.append(text)
        num_chars += len(text)
    if batch:
        yield batch


def _halves(batch: list[str], error: RefusedError) -> tuple[list[str], list[str]]:
    """The second and the first half of a batch that is too large for the server. Raises `error` if it is not."""
    if error.status != 413 or len(batch) == 1:
        raise error
    middle = len(batch) // 2
    return batch[middle:], batch[:middle]


def _predictions(response: httpx.Response, num_texts: int) -> list[Prediction]:
    try:
        answer = response.json()
        version = int(answer["version"])
        found = [Prediction(item["label"], item["score"], item["scores"], version) for item in answer["predictions"]]
    except (ValueError, KeyError, TypeError) as error:
        raise _no_endpoint(response) from error
    if len(found) != num_texts:
        raise AnswerError(f"{response.url} answered {len(found)} predictions to {num_texts} texts")
    return found


def _job_id(response: httpx.Response) -> str:
    try:
        return str(response.json()["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise _no_endpoint(response) from error


def _finished(response: httpx.Response) -> list[Prediction] | None:
    """The predictions of a job; None while there are none. Raises `JobFailedError`."""
    try:
        answer = response.json()
        state, num_texts = answer["state"], int(answer["texts"])
    except (ValueError, KeyError, TypeError) as error:
        raise _no_endpoint(response) from error
    if state == "failed":
        raise JobFailedError(str(answer.get("error")))
    return _predictions(response, num_texts) if state == "done" else None


def _no_endpoint(response: httpx.Response) -> AnswerError:
    return AnswerError(f"{response.url} does not answer as a tuneserve endpoint: {response.text[:200]!r}")


def _problem(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200] or response.reason_phrase


def _retry_after_s(response: httpx.Response) -> float:
    """`Retry-After` in seconds; 0 when there is none, or a date."""
    given = response.headers.get("Retry-After", "")
    return float(given) if given.isascii() and given.isdigit() else 0.0
