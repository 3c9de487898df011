"""Commands as Ray jobs: submitted over HTTP to the cluster that is up or to one elsewhere, followed, listed, stopped.

Every function takes the address of a Jobs API (`http://HOST:8265`); None means RAY_API_SERVER_ADDRESS, an http
RAY_ADDRESS, or the cluster that is up. The token goes along by itself.
"""

import asyncio
import logging
import os
import shlex
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import ray.exceptions
import requests
from ray.job_submission import JobStatus, JobSubmissionClient

from common.cluster_record import read_record
from common.code_archive import pack
from common.errors import ClusterError, InputError
from common.job_inputs import Destination, portable, require_shared
from common.local_ray import is_head_here
from common.location import join
from common.owner import OWNER_METADATA, owner
from common.ray_environment import environment, other_cluster_environment, own_cluster_environment
from common.storage import read_json

logger = logging.getLogger(__name__)

ENTRY_POINT = ("python", "-m", "scripts.cli")
"""How a job starts a command: the console command exists only where the package is installed."""

RECONNECT_DEADLINE_S = 60.0
SILENCE_S = 30.0
RECONNECT_PAUSE_S = 0.5
STOP_DEADLINE_S = 60.0
STOPPED_EXIT_CODE = 130

_TALKATIVE = ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")
"""Loggers of Ray's that report each request to people."""


@dataclass(frozen=True)
class SubmittedJob:
    """A job as its cluster knows it."""

    submission_id: str
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    command: str
    """What was submitted, without what `submit` added."""
    started_at: str | None
    """ISO 8601 time, UTC."""
    ended_at: str | None
    exit_code: int | None
    """Of the command; 130 when it was stopped, 1 when it could not be started, None while it has not ended."""
    message: str
    """What Ray says about the status."""
    result_uri: str | None
    """Where a command with `--json` leaves its result."""

    @property
    def has_ended(self) -> bool:
        """Whether the status will not change any more."""
        return self.exit_code is not None


class StoppedFollowing(KeyboardInterrupt):
    """Ctrl-C while following: the job goes on. The message says how to find it again and how to stop it."""


def submit(
    arguments: Sequence[str],
    *,
    storage: str | None,
    tracking_uri: str | None,
    address: str | None = None,
    submission_id: str | None = None,
) -> tuple[SubmittedJob, int]:
    """Submits a command with this machine's code; returns once the cluster has taken it.

    Args:
        arguments: A command and its arguments, as after `tuneserve`. Paths are relative to the current folder; small
            files are copied to the storage when the cluster is not on this machine.
        storage: Folder or URL that the job works in, handed on as `--storage`; None leaves it to the environment of
            the cluster.
        tracking_uri: MLflow tracking URI, handed on as `--mlflow-uri`; None likewise.
        address: Of the Jobs API.
        submission_id: Names the job; made up when None.

    Returns:
        The job, and the size in bytes of the code that it carries.

    Raises:
        InputError: An argument cannot be read on the cluster, or the submission id was used before.
        ClusterError: No cluster answers, or it refuses.
    """
    target, is_local = _target(address)
    destination = Destination(target, storage, is_local or is_head_here(target))
    require_shared(destination, tracking_uri)
    submission_id = submission_id or f"{arguments[0]}-{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
    result_uri = _result_uri(arguments, submission_id, storage)
    carried = portable(arguments, destination, tracking_uri)
    command = [*ENTRY_POINT, *_with_places(carried.arguments, storage, tracking_uri)]
    if result_uri:
        command = ["python", "-m", "common.job_result", result_uri, *command]
    code = pack(extra=carried.files)
    with _talking_to(target, is_local) as client, tempfile.TemporaryDirectory() as folder:
        if any(job.submission_id == submission_id for job in client.list_jobs()):
            raise InputError(f"a job {submission_id!r} was submitted before; choose another id or leave it out")
        archive = Path(folder) / "code.zip"
        archive.write_bytes(code)
        client.submit_job(
            entrypoint=shlex.join(command),
            submission_id=submission_id,
            runtime_env={"working_dir": str(archive)},
            metadata={
                "command": shlex.join(arguments),
                OWNER_METADATA: owner(),
                **({"result": result_uri} if result_uri else {}),
            },
        )
        return _described(client.get_job_info(submission_id)), len(code)


def is_elsewhere(address: str | None) -> bool:
    """Whether jobs would go to another cluster than the one that is up on this machine. Raises `ClusterError`."""
    return not _target(address)[1]


def get(submission_id: str, *, address: str | None = None) -> SubmittedJob:
    """One job.

    Raises:
        ClusterError: No cluster answers, or it knows no such job.
    """
    with _talking_to(*_target(address), submission_id) as client:
        return _described(client.get_job_info(submission_id))


def all_jobs(*, address: str | None = None) -> list[SubmittedJob]:
    """The jobs that were submitted to a cluster since it started, oldest first.

    Raises:
        ClusterError: No cluster answers.
    """
    with _talking_to(*_target(address)) as client:
        submitted = [job for job in client.list_jobs() if job.submission_id]
    return [_described(job) for job in sorted(submitted, key=lambda job: job.start_time or 0)]


def logs(submission_id: str, *, address: str | None = None) -> str:
    """What a job has printed so far.

    Raises:
        ClusterError: No cluster answers, or it knows no such job.
    """
    with _talking_to(*_target(address), submission_id) as client:
        return str(client.get_job_logs(submission_id))


def follow(submission_id: str, *, address: str | None = None) -> Iterator[str]:
    """What a job prints, from its start, piece by piece until it ends; a connection that drops is made again.

    Raises:
        StoppedFollowing: On Ctrl-C; the job goes on.
        ClusterError: No cluster answers, it knows no such job, or it was lost for a minute.
    """
    target = _target(address)
    try:
        with _talking_to(*target, submission_id) as client:
            client.get_job_info(submission_id)
            yield from _follow(client, submission_id)
    except KeyboardInterrupt as interrupt:
        raise StoppedFollowing(
            f"job {submission_id} goes on; follow it: tuneserve logs {submission_id} --follow{_option(address)}, "
            f"stop it: tuneserve stop {submission_id}{_option(address)}"
        ) from interrupt


def stop(submission_id: str, *, address: str | None = None) -> SubmittedJob:
    """Interrupts a job as Ctrl-C would and waits until it has ended; one that has ended already is left alone.

    Raises:
        ClusterError: No cluster answers, it knows no such job, or the job does not end.
    """
    with _talking_to(*_target(address), submission_id) as client:
        client.stop_job(submission_id)
        deadline = time.monotonic() + STOP_DEADLINE_S
        while time.monotonic() < deadline:
            job = _described(client.get_job_info(submission_id))
            if job.has_ended:
                return job
            time.sleep(0.2)
    raise ClusterError(f"job {submission_id} does not end; see `tuneserve logs {submission_id}{_option(address)}`")


def result(job: SubmittedJob) -> Any:
    """What a job's command with `--json` printed, or None when it printed nothing."""
    return read_json(job.result_uri) if job.result_uri else None


def _option(address: str | None) -> str:
    """What a command needs to reach the same cluster again."""
    return f" --address {shlex.quote(address)}" if address else ""


def _result_uri(arguments: Sequence[str], submission_id: str, storage: str | None) -> str | None:
    """Where the job is to leave its JSON result, which its log would mix with everything else."""
    if "--json" not in arguments:
        return None
    if storage is None:
        raise InputError(
            "--json needs a place where the job leaves its result and this machine finds it; name the cluster's with "
            "--storage or TUNESERVE_STORAGE"
        )
    return join(storage, "jobs", f"{submission_id}.json")


def _with_places(arguments: list[str], storage: str | None, tracking_uri: str | None) -> list[str]:
    """The arguments with the places settled, unless they are given; behind the command, where options always stand."""
    places = {"--storage": storage, "--mlflow-uri": tracking_uri}
    given = {argument.partition("=")[0] for argument in arguments}
    added = [part for option, value in places.items() if value and option not in given for part in (option, value)]
    return [arguments[0], *added, *arguments[1:]]


def _target(address: str | None) -> tuple[str, bool]:
    """The Jobs API to talk to, and whether its cluster is the one that is up on this machine."""
    record = read_record()
    ray_address = os.environ.get("RAY_ADDRESS", "")
    named = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    named = named or (ray_address if ray_address.startswith(("http://", "https://")) else None)
    if named is None and record is None:
        raise ClusterError(
            "no cluster is up; start one with `tuneserve up`, or name one with --address http://HOST:8265"
        )
    target = named if named is not None else record.dashboard_url if record else ""
    target = (target if "://" in target else f"http://{target}").rstrip("/")
    if not target.startswith(("http://", "https://")):
        raise ClusterError(f"{target} is not the address of a Jobs API; it looks like http://HOST:8265")
    return target, record is not None and target == record.dashboard_url


@contextmanager
def _talking_to(target: str, is_local: bool, submission_id: str = "") -> Iterator[JobSubmissionClient]:
    """A client that presents the right token; what goes wrong becomes one clear error."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    variables = own_cluster_environment() if is_local else other_cluster_environment()
    try:
        # Ray lets this variable win over the argument.
        with environment({**variables, "RAY_API_SERVER_ADDRESS": target}):
            client = JobSubmissionClient(target)
        yield client
    except ray.exceptions.AuthenticationError as error:
        raise ClusterError(
            f"the cluster at {target} refuses the token; put its token into ~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from error
    except (ConnectionError, requests.exceptions.RequestException, aiohttp.ClientError) as error:
        raise ClusterError(f"no Jobs API answers at {target}; is the cluster up, and the port forwarded?") from error
    except RuntimeError as error:
        if "404" in str(error) and submission_id:
            raise ClusterError(f"{target} knows no job {submission_id!r}; `tuneserve jobs` lists them") from error
        raise ClusterError(f"the Jobs API at {target} refuses: {error}") from error


def _follow(client: JobSubmissionClient, submission_id: str) -> Iterator[str]:
    num_seen = 0
    deadline = time.monotonic() + RECONNECT_DEADLINE_S
    with asyncio.Runner() as runner:
        while True:
            position = 0
            pieces = client.tail_job_logs(submission_id)
            complete = False
            try:
                while (piece := runner.run(_next(pieces))) is not None:
                    # A new connection starts at the beginning of the log.
                    yield piece[max(num_seen - position, 0) :]
                    position += len(piece)
                    num_seen = max(num_seen, position)
                    deadline = time.monotonic() + RECONNECT_DEADLINE_S
                complete = True
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                logger.info("the connection to the log of %s dropped (%s); connecting again", submission_id, error)
            is_late = time.monotonic() > deadline
            try:
                if _described(client.get_job_info(submission_id)).has_ended:
                    if complete or is_late:
                        return
                else:
                    deadline = time.monotonic() + RECONNECT_DEADLINE_S
            except (OSError, requests.exceptions.RequestException):
                if is_late:
                    raise
            time.sleep(RECONNECT_PAUSE_S)


async def _next(pieces: Any) -> str | None:
    """The next piece, or None at the end of the log.

    Raises:
        TimeoutError: Nothing came for a while, which a dead connection looks like as well.
    """
    async with asyncio.timeout(SILENCE_S):
        return await anext(pieces, None)


def _described(job: Any) -> SubmittedJob:
    metadata = job.metadata or {}
    exit_codes = {
        JobStatus.SUCCEEDED: 0,
        JobStatus.STOPPED: STOPPED_EXIT_CODE,
        JobStatus.FAILED: job.driver_exit_code or 1,
    }
    return SubmittedJob(
        submission_id=job.submission_id,
        status=str(job.status.value),
        command=metadata.get("command", job.entrypoint),
        started_at=_moment(job.start_time),
        ended_at=_moment(job.end_time),
        exit_code=exit_codes.get(job.status),
        message=job.message or "",
        result_uri=metadata.get("result"),
    )


def _moment(milliseconds: int | None) -> str | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds") if milliseconds else None
