"""What clients notice when a replica, the standby, the gateway or Serve's controller is killed under constant load.

    python -m scripts.faults recipes/quickstart.yaml
    python -m scripts.faults recipes/sms_spam.yaml data.source=PATH/all.csv data.text_column=text \\
        model.base=PATH/minilm --rounds 3

The recipe is trained for one epoch, promoted and deployed on a cluster of its own. The shipped client
(`serve/client.py`) asks it at a constant rate texts whose answers are known beforehand; meanwhile one part after
another is ended with SIGKILL. For each: the questions that were open until Serve had replaced the part, how many of
them were lost or answered wrongly (both must be none: the command fails else), how often the client had to repeat one,
the longest time without any answer, the slowest answer, and when the replacement was there.
"""

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.table import Table

from common.classifier import Classifier
from common.cluster import connect
from common.errors import ServingError
from scripts.checked_load import CheckedLoad, Report, questions, report
from scripts.cli import guarded, stdout_kept_free
from scripts.display import console, say, step
from scripts.fault_injection import PARTS, Part, kill, pids, wait_until, wait_until_replaced
from scripts.served import Served, served

STAYS_AWAKE_S = 600
REPLACED_WITHIN_S = 120.0
CALM_S = 3.0
"""Of load without a fault before each, and after its end: what comes late belongs to it."""


@dataclass(frozen=True)
class Fault:
    """One kill and what clients noticed."""

    part: Part
    replaced_after_s: float
    noticed: Report


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("--rounds", default=1, show_default=True, help="How often each part is killed.")
@click.option("--connections", default=8, show_default=True, help="Clients.")
@click.option("--per-s", default=40.0, show_default=True, help="Questions a second, all clients together.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(recipe: str, overrides: tuple[str, ...], rounds: int, connections: int, per_s: float, as_json: bool) -> None:
    """Kills what serves, and tells what clients noticed."""

    def show() -> dict[str, Any]:
        with (
            served(recipe, [f"serve.downscale_to_zero_delay_s={STAYS_AWAKE_S}", *overrides]) as endpoint,
            connect(private=False),
        ):
            faults = _measure(endpoint, rounds, connections, per_s)
        console.print()
        console.print(_table(faults))
        _require_nothing_lost(faults)
        return {"faults": [_document(fault) for fault in faults]}

    with stdout_kept_free():
        result = guarded(show, resume_with=None)
    if as_json:
        click.echo(json.dumps(result))


def _measure(endpoint: Served, rounds: int, connections: int, per_s: float) -> list[Fault]:
    name = endpoint.job.recipe.name
    asked = questions(Classifier.load(endpoint.engine_folder), endpoint.texts)
    step(f"{connections} clients ask {endpoint.url} {per_s:g} times a second, {len(asked)} texts in turn")
    spans: list[tuple[Part, float, float, float]] = []
    with CheckedLoad(endpoint.url, asked, connections=connections, per_s=per_s) as load:
        for part in PARTS * rounds:
            wait_until(lambda: bool(pids("replica", name)), REPLACED_WITHIN_S, f"{name!r} has no replica")
            time.sleep(CALM_S)
            killed_at = time.monotonic()
            pid = kill(part, name)
            wait_until_replaced(part, name, pid, REPLACED_WITHIN_S)
            replaced_at = time.monotonic()
            _wait_for_an_answer(load)
            say(f"  {part} killed (process {pid}), replaced after {replaced_at - killed_at:.1f} s")
            time.sleep(CALM_S)
            spans.append((part, killed_at, replaced_at, time.monotonic()))
    outcomes = load.outcomes()
    return [
        Fault(part, replaced_at - killed_at, report(outcomes, killed_at, ends_at))
        for part, killed_at, replaced_at, ends_at in spans
    ]


def _wait_for_an_answer(load: CheckedLoad) -> None:
    num_before = len(load.outcomes())
    wait_until(lambda: len(load.outcomes()) > num_before, REPLACED_WITHIN_S, "there is no answer")


def _table(faults: list[Fault]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("killed")
    for title in ("answered", "lost", "wrong", "repeated", "longest gap", "slowest answer", "replaced after"):
        table.add_column(title, justify="right")
    for fault in faults:
        noticed = fault.noticed
        counts = (noticed.num_answered, len(noticed.lost), len(noticed.wrong), noticed.num_repetitions)
        seconds = (noticed.longest_gap_s, noticed.slowest_s, fault.replaced_after_s)
        table.add_row(fault.part, *map(str, counts), *(f"{value:.2f} s" for value in seconds))
    return table


def _document(fault: Fault) -> dict[str, Any]:
    return {"part": fault.part, "replaced_after_s": fault.replaced_after_s, **asdict(fault.noticed)}


def _require_nothing_lost(faults: list[Fault]) -> None:
    bad = [f"{fault.part}: {words}" for fault in faults for words in (*fault.noticed.lost, *fault.noticed.wrong)]
    if bad:
        raise ServingError(f"{len(bad)} questions were lost or answered wrongly; the first: {bad[0]}")


if __name__ == "__main__":
    main()
