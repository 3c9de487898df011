"""Commands as Ray jobs: `submit`, `jobs`, `logs`, `stop`."""

import os
from collections.abc import Sequence
from dataclasses import asdict

from common import jobs
from common.errors import InputError, JobError
from scripts.display import console, say
from scripts.job import storage_location, tracking_location
from scripts.steps import Result


def submit(
    words: Sequence[str],
    *,
    commands: Sequence[str],
    as_json: bool,
    address: str | None,
    submission_id: str | None,
    no_wait: bool,
    storage: str | None,
    mlflow_uri: str | None,
) -> Result:
    """Submits a command and follows its log to its end; returns the command's own JSON result if it gave one.

    Raises:
        InputError: when the command cannot be a job.
        JobError: when the job did not succeed; carries the command's exit code.
    """
    if words[0] not in commands:
        raise InputError(f"{words[0]!r} cannot run as a job; choose from {', '.join(commands)}")
    place, tracking_uri = _places(address, storage, mlflow_uri)
    command = [*words, "--json"] if as_json and "--json" not in words else list(words)
    job, size = jobs.submit(
        command,
        storage=place,
        tracking_uri=tracking_uri,
        address=address,
        submission_id=submission_id,
    )
    say(f"submitted {job.submission_id} with {size / 1024:,.0f} KiB of code")
    if no_wait:
        return asdict(job)
    for piece in jobs.follow(job.submission_id, address=address):
        console.file.write(piece)
        console.file.flush()
    job = jobs.get(job.submission_id, address=address)
    if job.exit_code:
        raise JobError(f"job {job.submission_id}: {job.status}, exit code {job.exit_code}", job.exit_code)
    return jobs.result(job) or asdict(job)


def _places(address: str | None, storage: str | None, mlflow_uri: str | None) -> tuple[str | None, str | None]:
    """Where the job's state is to live; what is not named here is the cluster's to say, unless it is this machine's."""
    if jobs.is_elsewhere(address):
        return (
            storage or os.environ.get("TUNESERVE_STORAGE") or None,
            mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI") or None,
        )
    place = storage_location(storage)
    return place, tracking_location(mlflow_uri, place)


def list_jobs(address: str | None) -> Result:
    """The jobs of a cluster, oldest first."""
    found = jobs.all_jobs(address=address)
    for job in found:
        say(f"{job.submission_id:<36} {job.status:<10} {job.started_at or '-'}  {job.command}")
    return {"jobs": [asdict(job) for job in found]}


def show_logs(job_id: str, *, follow: bool, address: str | None) -> Result:
    """Prints what a job has printed."""
    for piece in jobs.follow(job_id, address=address) if follow else [jobs.logs(job_id, address=address)]:
        console.file.write(piece)
        console.file.flush()
    return asdict(jobs.get(job_id, address=address))


def stop_job(job_id: str, address: str | None) -> Result:
    """Ends a job as Ctrl-C would."""
    job = jobs.stop(job_id, address=address)
    say(f"{job.submission_id}: {job.status}")
    return asdict(job)
