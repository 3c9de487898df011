"""`POST /{name}/jobs` takes many texts and answers at once; `GET` and `DELETE /{name}/jobs/{id}` follow.

As RFC 9110 has it of 202: the answer says where the state of the work can be seen (`Location`).
"""

from functools import partial
from typing import Any, Literal

from fastapi import Response
from pydantic import AwareDatetime, BaseModel, Field

from serve.auth import KEY_ID
from serve.bodies import off_loop
from serve.exchange import JSON_TYPES, Exchange, RefusedError, check_lengths, json_object, only, strings
from serve.job import Job
from serve.jobs import MAX_TEXTS, Jobs
from serve.protocols import native
from serve.routes import Routes

MAX_JOB_BODY_BYTES = 8 * 1024 * 1024
"""A larger body is refused: parsing this much holds everybody up for some 25 ms."""

JOBS_PATH = "/jobs"
"""Below an endpoint's."""

REQUEST = {
    "description": "The texts to classify.",
    "type": "object",
    "additionalProperties": False,
    "required": ["texts"],
    "properties": {"texts": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_TEXTS}},
    "examples": [{"texts": ["Profits doubled", "The plant closes"]}],
}


class JobState(BaseModel):
    """A job, and when it is done its predictions."""

    id: str
    state: Literal["waiting", "running", "done", "failed"]
    texts: int
    answered: int = Field(description="Texts that have a prediction.")
    model: str | None
    version: int | None = Field(description="The version that answers all texts; null before the first.")
    error: str | None = Field(description="Why it failed.")
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = Field(description="When a job that has ended is forgotten.")
    predictions: list[native.Prediction] | None = Field(
        None, description="One for each text, in their order; when the state is done."
    )


def add_routes(routes: Routes, jobs: Jobs) -> None:
    """All three."""
    one = f"/{{name}}{JOBS_PATH}/{{id}}"
    state = {"model": JobState, "description": "The state of the job."}
    routes.post(
        native.PROTOCOL,
        f"/{{name}}{JOBS_PATH}",
        partial(_submit, jobs),
        "Classify many texts later",
        answer={**state, "description": "The job, and where its state is told (`Location`)."},
        body={"application/json": {"schema": REQUEST}},
        status=202,
    )
    routes.get(native.PROTOCOL, one, partial(_state, jobs), "How a job is, and its predictions", state)
    gone: dict[str, Any] = {"description": "There is no such job any more."}
    routes.delete(native.PROTOCOL, one, partial(_remove, jobs), "End and forget a job", gone)


async def _submit(jobs: Jobs, exchange: Exchange) -> Response:
    exchange.require_content_type(JSON_TYPES)
    texts = await off_loop(parse_job, await exchange.body(MAX_JOB_BODY_BYTES))
    exchange.require_version()
    job = jobs.submit(exchange.endpoint.name, _owner(exchange), texts)
    # Relative, so that it holds behind whatever prefix the gateway is reached by.
    return _answer(job, 202, {"Location": f"{JOBS_PATH.removeprefix('/')}/{job.id}"})


async def _state(jobs: Jobs, exchange: Exchange) -> Response:
    return _answer(_job(jobs, exchange), 200)


async def _remove(jobs: Jobs, exchange: Exchange) -> Response:
    jobs.remove(_job(jobs, exchange))
    return Response(status_code=204)


def parse_job(body: bytes) -> list[str]:
    """The texts in `body`. Raises `RefusedError`."""
    wanted = json_object(body)
    only(wanted, ("texts",))
    texts = strings(wanted.get("texts"), "texts")
    if not texts:
        raise RefusedError(422, "texts: there is no text; send at least one")
    if len(texts) > MAX_TEXTS:
        raise RefusedError(413, f"{len(texts)} texts are more than the {MAX_TEXTS} of a job; send them in several jobs")
    check_lengths(texts)
    return texts


def _job(jobs: Jobs, exchange: Exchange) -> Job:
    return jobs.find(exchange.endpoint.name, _owner(exchange), exchange.request.path_params["id"])


def _owner(exchange: Exchange) -> str | None:
    """The id of the key that the request came with, where one is needed."""
    found: str | None = exchange.request.scope.get(KEY_ID)
    return found


def _answer(job: Job, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(job.told(), status, headers, "application/json")
