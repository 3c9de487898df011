"""Jobs of an endpoint: many texts that are classified while nobody waits, in what requests leave of its replicas.

They live in the gateway's memory: what was handed in and is not done ends with it, as do the results. Whoever asks then
is told so, and hands the texts in again. Texts go when they are classified, predictions an hour later.
"""

import asyncio
import contextvars
import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from common.errors import RegistryError, ServingError
from serve.answered import Answered, Observer, tell
from serve.batching import Answer, ServedVersion
from serve.endpoints import Endpoint, Endpoints
from serve.exchange import RefusedError, check_scores
from serve.job import RETAIN_S, Job
from serve.leftover import BATCH_SIZE

MAX_TEXTS = 20_000
"""Texts of one job."""

RUN_LIMIT_S = 86_400.0
"""A job that has not ended by then fails: its endpoint has had no room for it for a day."""

MAX_JOBS_OF_ONE, MAX_BYTES_OF_ONE = 100, 64 * 1024 * 1024
"""Jobs that are kept for one API key, or for all who need none, and what their texts and predictions take."""

MAX_JOBS, MAX_BYTES = 400, 256 * 1024 * 1024
"""The same for all together."""

BATCHES_AHEAD = 4
"""Batches of one job that wait for their turn: enough for as many replicas."""

PAUSES_S = (1.0, 5.0, 15.0, 60.0)
"""A batch that fails is sent again after these, the last time after some 80 s; then its job fails."""

PROTOCOL = "jobs"
"""What the request log calls this."""

FAILED = "the gateway failed; its log on the head node says why"

logger = logging.getLogger(__name__)


class Jobs:
    """The jobs of all endpoints. Belongs to one event loop."""

    def __init__(self, endpoints: Endpoints, observers: Sequence[Observer] = ()) -> None:
        self._endpoints = endpoints
        self._observers = observers
        self._gateway = secrets.token_hex(4)
        self._jobs: dict[str, Job] = {}

    def submit(self, endpoint: str, owner: str | None, texts: Sequence[str]) -> Job:
        """A new job, which goes on by itself. Raises `RefusedError` when too many jobs or bytes are kept."""
        job = Job(f"{self._gateway}-{secrets.token_hex(16)}", endpoint, owner, texts)
        self._check_room(job)
        self._jobs[job.id] = job
        # In a context of its own: Serve cancels the calls that were made in the context of a cancelled request.
        job.task = asyncio.create_task(self._run(job), context=contextvars.Context())
        return job

    def find(self, endpoint: str, owner: str | None, job_id: str) -> Job:
        """The job of that id. Raises `RefusedError` when there is none, also when it is another key's."""
        job = self._jobs.get(job_id)
        if job is not None and (job.endpoint, job.owner) == (endpoint, owner):
            return job
        kept = f"a job is kept for {RETAIN_S:g} s after its end, for the key that it came with"
        if job_id.partition("-")[0] != self._gateway:
            kept = "jobs end with the gateway, and this one has started since or never had it; hand the texts in again"
        raise RefusedError(404, f"{endpoint!r} has no job {job_id!r}: {kept}")

    def remove(self, job: Job) -> None:
        """Ends a job and forgets it."""
        self._jobs.pop(job.id, None)
        if job.task is not None:
            job.task.cancel()

    async def close(self) -> None:
        """Ends all of them."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check_room(self, new: Job) -> None:
        theirs = [job for job in self._jobs.values() if job.owner == new.owner]
        for jobs, whose, max_jobs, max_bytes in (
            (theirs, "yours", MAX_JOBS_OF_ONE, MAX_BYTES_OF_ONE),
            (list(self._jobs.values()), "all", MAX_JOBS, MAX_BYTES),
        ):
            num_bytes = sum(job.num_bytes for job in jobs)
            if len(jobs) >= max_jobs or (jobs and num_bytes + new.num_bytes > max_bytes):
                raise RefusedError(
                    429,
                    f"{len(jobs)} jobs ({whose}) of {num_bytes} bytes are kept, and {max_jobs} of {max_bytes} may be; "
                    "fetch and delete (DELETE) those that have ended, or try again later",
                )

    async def _run(self, job: Job) -> None:
        job.end(await self._failure(job))
        asyncio.get_running_loop().call_later(RETAIN_S, self._jobs.pop, job.id, None)

    async def _failure(self, job: Job) -> str | None:
        """Why the job failed, once it has ended; None when it did not."""
        try:
            async with asyncio.timeout(RUN_LIMIT_S):
                await self._classify(job)
        except TimeoutError:
            return f"{job.num_answered} of {job.num_texts} texts were answered within {RUN_LIMIT_S:g} s"
        except (RefusedError, RegistryError, ServingError) as error:
            return str(error)
        except Exception as error:
            # What nobody foresaw is told to the log only: its words may hold paths, addresses or texts.
            logger.error("a job of %s failed", job.endpoint, exc_info=error)
            return FAILED
        return None

    async def _classify(self, job: Job) -> None:
        endpoint = self._endpoint(job)
        job.served, job.model = await endpoint.known_version(), endpoint.spec.model
        job.state = "running"
        numbers = iter(range(job.num_batches))
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(BATCHES_AHEAD):
                    tasks.create_task(self._classify_batches(job, job.served, numbers))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _classify_batches(self, job: Job, served: ServedVersion, numbers: Iterator[int]) -> None:
        for number in numbers:
            at, began_at = datetime.now(UTC), time.perf_counter()
            texts = job.batch(number)
            answers = await self._answers(job, served, texts)
            check_scores(answers, number * BATCH_SIZE)
            job.take(number, answers)
            seen = Answered(
                endpoint=job.endpoint,
                spec=self._endpoint(job).spec,
                protocol=PROTOCOL,
                request_id=job.id,
                at=at,
                latency_s=time.perf_counter() - began_at,
                status=200,
                version=served.version,
                texts=texts,
                answers=answers,
            )
            tell(self._observers, seen)

    async def _answers(self, job: Job, served: ServedVersion, texts: Sequence[str]) -> list[Answer]:
        for pause_s in PAUSES_S:
            try:
                return await self._endpoint(job).leftover.classify(served, texts)
            except ServingError:
                await asyncio.sleep(pause_s)
        return await self._endpoint(job).leftover.classify(served, texts)

    def _endpoint(self, job: Job) -> Endpoint:
        try:
            return self._endpoints[job.endpoint]
        except KeyError:
            raise ServingError(f"endpoint {job.endpoint!r} was removed") from None
