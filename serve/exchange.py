"""One request to an endpoint, whatever its protocol: its body is read, its texts are classified, within the limits."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import pydantic_core
from fastapi import Request
from starlette.requests import ClientDisconnect

from common.errors import RegistryError, ServingError
from common.model_settings import ModelSettings
from serve.answered import Answered
from serve.batching import Answer, QueueFullError, Text
from serve.bodies import MAX_MARKS, has_too_many_values, off_loop
from serve.endpoints import Endpoint
from serve.request_id import REQUEST_ID

MAX_BODY_BYTES = 4 * 1024 * 1024
"""A larger body is refused before it is read to the end."""

MAX_TEXT_CHARS = 100_000
"""A longer text is refused: its tokens would hold up the texts beside it, and models read a few hundred of them."""

MAX_MESSAGE_CHARS = 1000
"""A longer refusal is cut off."""

RETRY_AFTER_S = 1
"""What a client that is turned away for now is asked to wait."""

SCALE_UP_HEADER = "X-Scale-Up-Timeout"
"""Seconds that a request is willing to wait for a wake; Hugging Face's name."""

Read = TypeVar("Read")

JSON_TYPES = {"", "application/json"}
"""What says that a body is JSON; also saying nothing does."""


class RefusedError(Exception):
    """A request gets no predictions. Its words name the value, the rule and the way out; a protocol gives the shape.

    `status` is 404 (no such endpoint), 413 (too large), 415 (content type), 422 (not what the protocol asks for), 429
    (too much waits), 500 (the model failed), 503 (no model) or 504 (too slow).
    """

    def __init__(self, status: int, message: str) -> None:
        # What is quoted is the client's: a name of four million characters is not sent back.
        super().__init__(message if len(message) <= MAX_MESSAGE_CHARS else f"{message[:MAX_MESSAGE_CHARS]} ...")
        self.status = status

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After`, where to try again can help."""
        return {"Retry-After": str(RETRY_AFTER_S)} if self.status in (429, 503) else {}


class Exchange:
    """A request to `endpoint`. Every method raises `RefusedError`."""

    def __init__(self, request: Request, endpoint: Endpoint, deadline_s: float) -> None:
        self.request = request
        self.endpoint = endpoint
        self._deadline_s = deadline_s
        self.version = endpoint.served.version if endpoint.served else None
        """The version that answered, or, before that, the one that would."""
        self.texts: Sequence[Text] = ()
        """What is to be classified, once it is read and within the limits."""
        self.answers: Sequence[Answer] = ()
        self._at = datetime.now(UTC)
        self._began_at = time.perf_counter()

    def content_type(self) -> str:
        """The body's type in lower case, without parameters; empty when the client gave none."""
        return self.request.headers.get("content-type", "").partition(";")[0].strip().lower()

    def require_content_type(self, allowed: set[str]) -> None:
        """Refuses a body of another type, or a compressed one."""
        given = self.content_type()
        if given not in allowed:
            wanted = " or ".join(sorted(allowed - {""}))
            raise RefusedError(415, f"content type {given!r} is not read here; send {wanted}")
        encoding = self.request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise RefusedError(415, f"content encoding {encoding!r} is not read here; send the body uncompressed")

    async def body(self, max_bytes: int = MAX_BODY_BYTES) -> bytes:
        """The body as it came."""
        body = bytearray()
        try:
            async for part in self.request.stream():
                body += part
                if len(body) > max_bytes:
                    raise RefusedError(
                        413, f"the body is larger than {max_bytes} bytes; send the texts in several requests"
                    )
        except ClientDisconnect:
            raise RefusedError(422, "the client left before its body was complete") from None
        return bytes(body)

    async def json(self) -> dict[str, Any]:
        """The JSON object in the body."""
        self.require_content_type(JSON_TYPES)
        return await off_loop(json_object, await self.body())

    async def classify(self, texts: Sequence[Text]) -> list[Answer]:
        """An answer for each text, in their order, all by one version."""
        self._check(texts)
        self.texts = texts
        limit_s = self._time_limit_s()
        try:
            async with asyncio.timeout(limit_s):
                answers, self.version = await self.endpoint.classify(list(texts), self._request_id())
        except QueueFullError:
            waiting, limit = self.endpoint.batcher.num_waiting, self.endpoint.spec.max_queued_requests
            message = (
                f"{waiting} texts wait and {limit} may (serve.max_queued_requests); try again in {RETRY_AFTER_S} s"
            )
            raise RefusedError(429, message) from None
        except TimeoutError:
            state = self.endpoint.health().state
            message = f"no answer within {limit_s:g} s; {self.endpoint.name!r} is {state}: see `tuneserve status`"
            raise RefusedError(504, message) from None
        except RegistryError as error:
            raise RefusedError(503, str(error)) from error
        except ServingError as error:
            raise RefusedError(500, str(error)) from error
        check_scores(answers)
        self.answers = answers
        return answers

    def answered(self, protocol: str, status: int) -> Answered:
        """What became of the texts of a request in that protocol."""
        return Answered(
            endpoint=self.endpoint.name,
            spec=self.endpoint.spec,
            protocol=protocol,
            request_id=self.request.scope.get(REQUEST_ID, ""),
            at=self._at,
            latency_s=time.perf_counter() - self._began_at,
            status=status,
            version=self.version,
            texts=self.texts,
            answers=self.answers,
        )

    def require_version(self) -> None:
        """Refuses while nobody knows which version is to answer."""
        if self.endpoint.served is None:
            problem = self.endpoint.problem or "the registry has not been reached yet"
            raise RefusedError(503, f"{self.endpoint.name!r} has no model to answer with yet: {problem}")

    async def settings(self) -> ModelSettings:
        """What the model says of itself; wakes nothing."""
        return await self._read(self.endpoint.settings)

    async def card(self) -> tuple[ModelSettings, str | None]:
        """That, and the model's card as it was written, if it has one; wakes nothing."""
        return await self._read(self.endpoint.card)

    async def _read(self, read: Callable[[], Awaitable[tuple[Read, int]]]) -> Read:
        """What `read` reads of the model's files; it also tells the version that they are of."""
        self.require_version()
        try:
            async with asyncio.timeout(self._deadline_s):
                found, self.version = await read()
        except TimeoutError:
            raise RefusedError(504, f"the model's files were not read within {self._deadline_s:g} s") from None
        except ServingError as error:
            raise RefusedError(503, str(error)) from error
        return found

    def _check(self, texts: Sequence[Text]) -> None:
        if not texts:
            raise RefusedError(422, "there is no text; send at least one")
        limit = self.endpoint.spec.max_queued_requests
        if len(texts) > limit:
            raise RefusedError(
                413,
                f"{len(texts)} texts are more than the {limit} that may wait (serve.max_queued_requests); send them in "
                "several requests",
            )
        check_lengths(texts)

    def _request_id(self) -> str:
        """The request's id; one of its own where no middleware gave it one."""
        found: str = self.request.scope.get(REQUEST_ID) or uuid.uuid4().hex
        return found

    def _time_limit_s(self) -> float:
        """Seconds that the answer may take: what the client said of a wake, where one is needed."""
        given = self.request.headers.get(SCALE_UP_HEADER)
        if given is None:
            return self._deadline_s
        try:
            wanted = float(given)
        except ValueError:
            wanted = -1.0
        if not wanted >= 0:
            raise RefusedError(422, f"{SCALE_UP_HEADER}: {given!r} is not a number of seconds; give one from 0 on")
        return self._deadline_s if self.endpoint.deployed.num_running else min(wanted, self._deadline_s)


def check_lengths(texts: Sequence[Text]) -> None:
    """Refuses a text that is too long."""
    for number, text in enumerate(texts):
        num_chars = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
        if num_chars > MAX_TEXT_CHARS:
            raise RefusedError(
                413, f"text {number} has {num_chars} characters and may have {MAX_TEXT_CHARS}; send its beginning"
            )


def check_scores(answers: Sequence[Answer], first: int = 0) -> None:
    """Refuses scores that are no numbers, which JSON cannot say; `first` is the number of the first text."""
    for number, answer in enumerate(answers, start=first):
        if answer["score"] != answer["score"]:  # NaN
            raise RefusedError(500, f"the model's score for text {number} is not a number; promote another version")


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises `RefusedError`; so does a lone surrogate, which no tokenizer takes."""
    if has_too_many_values(body):
        raise RefusedError(
            413, f"the body holds more than {MAX_MARKS} values and separators; send the texts in several requests"
        )
    try:
        found = pydantic_core.from_json(body)
    except ValueError as error:
        raise RefusedError(422, f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RefusedError(422, f"the body is a JSON {kind(found)}; send an object")
    return found


def only(found: dict[str, Any], known: Sequence[str], where: str = "") -> None:
    """Refuses what is not in `known`, by name."""
    for name in found:
        if name not in known:
            raise RefusedError(422, f"{where}{name!r} is not known here; known: {', '.join(known) or 'none'}")


def string(value: Any, where: str) -> str:
    """`value`, if it is a string."""
    if not isinstance(value, str):
        raise RefusedError(422, f"{where}: expected a string and not {kind(value)}")
    return value


def strings(value: Any, where: str) -> list[str]:
    """`value`, if it is a list of strings."""
    if not isinstance(value, list):
        raise RefusedError(422, f"{where}: expected a list of strings and not {kind(value)}")
    for number, item in enumerate(value):
        if not isinstance(item, str):
            raise RefusedError(422, f"{where}[{number}]: expected a string and not {kind(item)}")
    return value


def settings(value: Any, where: str, known: Sequence[str]) -> dict[str, Any]:
    """`value`, if it is an object with nothing but `known` in it; empty for null."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RefusedError(422, f"{where}: expected an object and not {kind(value)}")
    only(value, known, f"{where}: ")
    return value


def flag(found: dict[str, Any], name: str, default: bool = False) -> bool:
    """The boolean of that name in `found`."""
    value = found.get(name, default)
    if not isinstance(value, bool):
        raise RefusedError(422, f"{name}: expected true or false and not {kind(value)}")
    return value


def kind(value: Any) -> str:
    """The type of a JSON value in JSON's own words."""
    names = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")
