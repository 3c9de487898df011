"""Where a search starts: points that a recipe names, or the best trials of an earlier sweep."""

from typing import Any

from common.errors import InputError
from common.search_range import Point
from scripts.job import Job, stored_runs

MAX_POINTS = 5
"""So many of an earlier sweep's best trials are tried again; more would leave less to search."""


def starting_points(job: Job) -> list[Point]:
    """The points to try first, best first; none when the recipe has no `search.warm_start`.

    Of an earlier sweep these are settings to train anew with, not results: its data may have been other data.

    Raises:
        InputError: when there is no such finished sweep, or none of its trials lies in the search space.
    """
    named = job.recipe.search.warm_start
    if named is None:
        return []
    if not isinstance(named, str):
        return list(named)
    search = job.recipe.search
    result = _earlier_sweep(job, named)
    points: list[Point] = []
    problems: list[str] = []
    for trial in result["trials"]:
        if not trial["metrics"] or trial["state"] == "failed":
            continue
        point = {name: value for name, value in trial["params"].items() if name in search.space}
        found = search.point_problems(point)
        problems += [f"trial {trial['number']}: {problem}" for problem in found]
        if point and not found and point not in points:
            points.append(point)
    if not points:
        reason = problems[0] if problems else "none of its trials has a setting that is searched now"
        raise InputError(
            f"search.warm_start: sweep {result['sweep_id']} has no trial to start from ({reason}); widen search.space "
            "or leave warm_start out"
        )
    return points[: min(MAX_POINTS, search.num_trials)]


def _earlier_sweep(job: Job, named: str) -> dict[str, Any]:
    """The finished sweep of that id, or the newest one of the recipe of that name."""
    runs = stored_runs(job.storage)
    finished = [result for _, result in runs if result is not None and "sweep_id" in result]
    found = [result for result in finished if named in (result["sweep_id"], result["name"])]
    if found:
        return max(found, key=lambda result: float(result["finished_at"]))
    if any(run == named for run, _ in runs):
        raise InputError(
            f"search.warm_start: sweep {named} did not finish; continue it with `tuneserve sweep --resume`"
        )
    there = ", ".join(result["sweep_id"] for result in finished) or "none"
    raise InputError(
        f"search.warm_start: {job.runs} has no finished sweep {named!r}, nor one of a recipe called so; finished are: "
        + there
    )
