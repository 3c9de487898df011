"""How long a request to an endpoint with no replica waits for its answer, and where the time goes.

    python -m scripts.bench_wake recipes/quickstart.yaml
    python -m scripts.bench_wake recipes/sms_spam.yaml data.source=PATH/train.csv data.text_column=text \\
        model.base=PATH/minilm

The recipe is trained for one epoch, promoted, and deployed by a submitted job on a cluster of its own, on a node that
is up. Then, some twenty times: wait until the endpoint has no replica, post one text, wait until it has one.

The standby answers first; it has dropped the model when the endpoint's own replica took over, so each round loads it
anew. What the replica itself takes is stated apart: Serve's decision and the lease of a process, the process's start
and imports, Serve's own set-up, the model. The baseline is that replica: the wait without a standby.

Then the shared pool (scripts/shared_pool.py): endpoints whose models are copies of this one are deployed on it, and
each is asked for the first time while the pool is awake.

    python -m scripts.bench_wake recipes/quickstart.yaml --shared 300     # also what as many cost while nobody asks
"""

import time
from statistics import median
from typing import Any

import click
import numpy as np
import psutil
import ray
import ray.serve

from common.cluster import connect
from common.errors import ServingError
from scripts.benchmark import Figure, run
from scripts.display import say, step
from scripts.served import Served, ask, served, wait
from scripts.shared_pool import measure_pool
from serve.backend import DEPLOYMENT, STANDBY

DELAY_S = 1
"""After which the endpoint sleeps."""

CHANGE_TIMEOUT_S = 60.0
PHASES = ("decision and lease", "process and imports", "Serve's set-up", "model")


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("--rounds", default=20, show_default=True, help="Wakes.")
@click.option("--shared", default=21, show_default=True, help="Endpoints on the shared pool.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(recipe: str, overrides: tuple[str, ...], rounds: int, shared: int, as_json: bool) -> None:
    """Measures wakes from zero replicas."""

    def measure() -> list[Figure]:
        delay = f"serve.downscale_to_zero_delay_s={DELAY_S}"
        with served(recipe, [delay, *overrides], by_job=True) as endpoint, connect(private=False):
            figures = _measure(endpoint, rounds)
            own_s = next(figure.baseline for figure in figures if figure.name == "wake_p50_s")
            return [*figures, *measure_pool(endpoint, num_endpoints=shared, rounds=rounds, baseline_s=own_s)]

    run(measure, as_json=as_json)


def _measure(endpoint: Served, rounds: int) -> list[Figure]:
    step(f"{rounds} wakes of {endpoint.url}")
    answers: list[float] = []
    replicas: list[tuple[float, ...]] = []
    for number in range(rounds):
        wait(endpoint.url, "asleep")
        text = endpoint.texts[number % len(endpoint.texts)]
        asked_at = time.time()
        answers.append(ask(endpoint.url, text))
        standby_load_s = _times(STANDBY)["load"] - asked_at
        wait(endpoint.url, "awake")
        replicas.append(_phases(asked_at, _times(endpoint.job.recipe.name)))
        say(
            f"  {number + 1:>2}: answer after {answers[-1]:.3f} s (model loaded after {standby_load_s:.3f} s); own "
            f"replica ready after {sum(replicas[-1]):.2f} s"
        )
    medians = [median(column) for column in zip(*replicas, strict=True)]
    say("  own replica, medians: " + ", ".join(f"{name} {s:.2f} s" for name, s in zip(PHASES, medians, strict=True)))
    own = [sum(phases) for phases in replicas]
    warm = [ask(endpoint.url, text) for text in endpoint.texts[:rounds]]
    say(f"  awake: p50 {median(warm) * 1000:.1f} ms")
    wait(endpoint.url, "asleep")
    memory = _standby_memory_mb()
    say(f"  memory while all sleep: standby {memory:.0f} MB of its own")
    return [
        Figure("wake_p50_s", median(answers), "s", median(own), more_is_better=False),
        Figure(
            "wake_p95_s", float(np.quantile(answers, 0.95)), "s", float(np.quantile(own, 0.95)), more_is_better=False
        ),
        Figure("wake_standby_mb", memory, "MB", more_is_better=False),
    ]


def _times(application: str) -> dict[str, float]:
    """When a replica was where, once it has loaded a model."""
    handle: Any = ray.serve.get_deployment_handle(DEPLOYMENT, app_name=application)
    deadline = time.monotonic() + CHANGE_TIMEOUT_S
    while time.monotonic() < deadline:
        times: dict[str, float] = handle.times.remote().result(timeout_s=CHANGE_TIMEOUT_S)
        if "load" in times:
            return times
    raise ServingError(f"the replica of {application!r} has loaded no model in {CHANGE_TIMEOUT_S:.0f} s")


def _phases(asked_at: float, times: dict[str, float]) -> tuple[float, ...]:
    """Seconds of each of `PHASES`; a process that Ray had ready began before it was asked for."""
    process = max(times["process"], asked_at)
    imports = max(times["imports"], process)
    return (process - asked_at, imports - process, times["init"] - imports, times["load"] - times["init"])


def _standby_memory_mb() -> float:
    process = psutil.Process(int(_times(STANDBY)["pid"]))
    return float(process.memory_full_info().uss / 1e6)


if __name__ == "__main__":
    main()
