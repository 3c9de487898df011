"""Whether the memory of what serves stays as it is under an hour of load.

    python -m scripts.soak recipes/quickstart.yaml
    python -m scripts.soak recipes/quickstart.yaml --seconds 300 --every-s 5

The recipe is trained for one epoch, promoted and deployed on a cluster of its own. The shipped client asks it at a
constant rate, and every answer is held against the one that is known to be right. Meanwhile the memory that each
process has for itself (USS) is looked at: the gateway, the replica, the standby and Serve's controller. A process is
steady when its memory, after the first quarter of the time, in which caches fill, grows by less than 10 MB an hour
(Theil-Sen slope: the median over all pairs of samples, which a single peak does not move).
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median
from typing import Any

import click
import psutil
from rich.table import Table

from common.classifier import Classifier
from common.cluster import connect
from common.errors import ServingError
from scripts.checked_load import CheckedLoad, questions, report
from scripts.cli import guarded, stdout_kept_free
from scripts.display import console, say, step
from scripts.fault_injection import PARTS, Part, pids, wait_until
from scripts.served import Served, served

STEADY_MB_PER_H = 10.0
WARM_UP_SHARE = 0.25
AWAKE_WITHIN_S = 120.0
STAYS_AWAKE_S = 600


@dataclass(frozen=True)
class Sample:
    """The memory of a process at a time: seconds since the load began, and MB that it shares with no other."""

    at_s: float
    mb: float


@dataclass(frozen=True)
class Course:
    """How the memory of a process went."""

    part: Part
    first_mb: float
    last_mb: float
    most_mb: float
    mb_per_h: float

    @property
    def is_steady(self) -> bool:
        """Whether it grows by less than what an hour may add."""
        return self.mb_per_h < STEADY_MB_PER_H


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("--seconds", default=3600.0, show_default=True, help="Of load.")
@click.option("--every-s", default=15.0, show_default=True, help="Seconds between two looks at the memory.")
@click.option("--per-s", default=40.0, show_default=True, help="Questions a second.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(recipe: str, overrides: tuple[str, ...], seconds: float, every_s: float, per_s: float, as_json: bool) -> None:
    """Loads an endpoint for long and looks at its memory."""

    def show() -> dict[str, Any]:
        delay = f"serve.downscale_to_zero_delay_s={STAYS_AWAKE_S}"
        with served(recipe, [delay, "serve.max_replicas=1", *overrides]) as endpoint, connect(private=False):
            courses, num_answered = _measure(endpoint, seconds, every_s, per_s)
        console.print()
        console.print(_table(courses))
        if growing := [course.part for course in courses if not course.is_steady]:
            raise ServingError(
                f"memory grows by {STEADY_MB_PER_H:g} MB an hour or more: {', '.join(growing)}; a short run tells "
                "little: the default is an hour"
            )
        rows = [{**asdict(course), "is_steady": course.is_steady} for course in courses]
        return {"answered": num_answered, "seconds": seconds, "memory": rows}

    with stdout_kept_free():
        result = guarded(show, resume_with=None)
    if as_json:
        click.echo(json.dumps(result))


def _measure(endpoint: Served, seconds: float, every_s: float, per_s: float) -> tuple[list[Course], int]:
    name = endpoint.job.recipe.name
    asked = questions(Classifier.load(endpoint.engine_folder), endpoint.texts)
    step(f"{per_s:g} questions a second to {endpoint.url} for {seconds:g} s")
    with CheckedLoad(endpoint.url, asked, per_s=per_s) as load:
        wait_until(lambda: bool(pids("replica", name)), AWAKE_WITHIN_S, f"{name!r} has no replica")
        samples = _sample({part: psutil.Process(pids(part, name)[0]) for part in PARTS}, seconds, every_s)
    found = report(load.outcomes(), 0.0, time.monotonic())
    if bad := (*found.lost, *found.wrong):
        raise ServingError(f"{len(bad)} questions were lost or answered wrongly; the first: {bad[0]}")
    say(f"  {found.num_answered} questions answered, all as expected")
    return [course(part, samples[part]) for part in PARTS], found.num_answered


def _sample(processes: dict[Part, psutil.Process], seconds: float, every_s: float) -> dict[Part, list[Sample]]:
    samples: dict[Part, list[Sample]] = {part: [] for part in processes}
    began_at = time.monotonic()
    while (at_s := time.monotonic() - began_at) < seconds:
        for part, process in processes.items():
            samples[part].append(Sample(at_s, process.memory_full_info().uss / 1e6))
        memory = ", ".join(f"{part} {samples[part][-1].mb:.1f}" for part in processes)
        say(f"  {at_s:6.0f} s  MB: {memory}")
        time.sleep(every_s)
    return samples


def course(part: Part, samples: Sequence[Sample]) -> Course:
    """What the samples of a process say. Raises `ServingError` when there are too few."""
    counted = [sample for sample in samples if sample.at_s >= WARM_UP_SHARE * samples[-1].at_s]
    pairs = [(one, other) for one, other in combinations(counted, 2) if other.at_s > one.at_s]
    if not pairs:
        raise ServingError(f"{len(samples)} looks at the memory tell no course; load for longer: --seconds")
    mb_per_s = median((other.mb - one.mb) / (other.at_s - one.at_s) for one, other in pairs)
    most_mb = max(sample.mb for sample in samples)
    return Course(part, samples[0].mb, samples[-1].mb, most_mb, mb_per_s * 3600)


def _table(courses: Sequence[Course]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("process")
    for title in ("first MB", "last MB", "most MB", "MB an hour", "steady"):
        table.add_column(title, justify="right")
    for found in courses:
        figures = (found.first_mb, found.last_mb, found.most_mb, found.mb_per_h)
        table.add_row(found.part, *(f"{figure:.1f}" for figure in figures), "yes" if found.is_steady else "NO")
    return table


if __name__ == "__main__":
    main()
