"""`tuneserve deploy --canary` and `--shadow`: from the options to a plan, and what people see of it."""

from typing import Any

from common.errors import InputError
from common.registry import CANDIDATE_ALIAS
from scripts.job import Job
from serve.canary_settings import DEFAULT_MIN_AGREEMENT, DEFAULT_MIN_REQUESTS, CanarySettings, Mode
from serve.candidate import plan_canary


def canary_of(
    job: Job,
    *,
    canary: int | None,
    shadow: int | None,
    candidate: str | None,
    min_requests: int | None,
    min_agreement: float | None,
) -> CanarySettings | None:
    """What the options of `tuneserve deploy` ask for; None without `--canary` and `--shadow`.

    Raises `InputError` for options that exclude or miss each other, and what `plan_canary` raises.
    """
    if canary is not None and shadow is not None:
        raise InputError("--canary and --shadow exclude each other: a candidate either answers or it does not")
    percent = canary if canary is not None else shadow
    if percent is None:
        given = {"--candidate": candidate, "--min-requests": min_requests, "--min-agreement": min_agreement}
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} {value} says how to compare; add --canary PERCENT or --shadow PERCENT")
        return None
    mode: Mode = "canary" if canary is not None else "shadow"
    return plan_canary(
        job.recipe,
        tracking_uri=job.tracking_uri,
        storage=job.storage,
        mode=mode,
        percent=percent,
        candidate=CANDIDATE_ALIAS if candidate is None else candidate,
        min_requests=DEFAULT_MIN_REQUESTS if min_requests is None else min_requests,
        min_agreement=DEFAULT_MIN_AGREEMENT if min_agreement is None else min_agreement,
    )


def canary_line(settings: CanarySettings) -> str:
    """What a deployment with a candidate does from now on."""
    if settings.mode == "shadow":
        return (
            f"version {settings.version} is asked {settings.percent} % of the requests too and answers none; "
            f"{settings.min_requests} compared requests decide: tuneserve status"
        )
    return (
        f"version {settings.version} answers {settings.percent} % of the requests; {settings.min_requests} compared "
        "requests make it the champion, a bound that it breaks rolls it back: tuneserve status"
    )


def canary_status_line(canary: dict[str, Any]) -> str:
    """How a candidate does, from the gateway's `serve.health.CanaryHealth`."""
    version, mode = canary["candidate"]["version"], canary["mode"]
    if canary["state"] != "running":
        return f"{mode} of version {version}  {canary['state']}: {canary['reason']}"
    agreement = canary["agreement"]
    shown = "" if agreement is None else f", agreement {agreement:.3f}"
    problem = f"; {canary['problem']}" if canary["problem"] else ""
    return (
        f"{mode} of version {version}  {canary['percent']} %, {canary['compared']} of {canary['min_requests']} "
        f"requests compared{shown}{problem}"
    )
