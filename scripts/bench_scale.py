"""How what a sweep and the endpoints cost grows with their number, and where the first limit of each axis is.

    python -m scripts.bench_scale recipes/quickstart.yaml --png scaling.png
    python -m scripts.bench_scale recipes/quickstart.yaml --part gateway --times 4     # larger sizes

Each axis is measured at a few sizes, and a line of least squares is laid through them. What is counted is the CPU time
of the one thread or process that the axis loads, which other work on the machine changes little; memory is what the
process shares with no other. Three parts, each with Ray processes of its own that vanish:

- `sweep`: trials that train nothing, through searcher, scheduler and recorder as in `scripts.bench_trials`, and the
  writing of their MLflow runs on SQLite by the thread that sweeps use;
- `control_store`: Ray's GCS with actors that come and go, and with nodes that are there (raylets on this machine);
- `gateway`: the recipe is trained for one epoch and deployed; requests at 1 and 32 connections, and copies of the
  endpoint that nobody asks, on the shared pool (`scripts.shared_pool`) and with replicas of their own.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import psutil
import ray
from ray._private.node import Node
from ray._private.parameter import RayParams

from common.cluster import connect
from common.errors import ServingError
from common.ray_head import LOOPBACK
from common.recipe import PoolKind
from common.tracking import Tracker, sqlite_uri
from scripts.bench_trials import RECIPE, Measured, report_epochs, run_many
from scripts.benchmark import Figure, run
from scripts.display import say, step
from scripts.fault_injection import pids
from scripts.scale_axis import Axis, write_figure
from scripts.served import Served, ask, served, wait
from scripts.shared_pool import busy_cores, deploy_copies, gateway_process
from scripts.varying_load import Stage, varying_load
from tune.run_writer import RunWriter

PARTS = ("sweep", "control_store", "gateway")

TRIALS = (75, 150, 300)
EPOCHS = (5, 10, 20)
NUM_REPORTING = 30
"""Trials that report all of `EPOCHS`."""
AT_ONCE = 2
RUNS = (100, 200, 400)
ACTORS = (6, 12, 24)
NODES = (1, 3, 6)
CONNECTIONS = (1, 32)
LOAD_S = (1.5, 3.0, 4.5)
SHARED_ENDPOINTS = (0, 50, 100)
OWN_ENDPOINTS = (0, 3, 6)

WATCHED_S = 8.0
"""For how long a process is watched that nobody asks for anything."""

SETTLE_S = 5.0

FULL_CORE = 1.0
MEMORY_LIMIT_MB = 4096.0
SLOW_MS = 100.0
"""A driver that works so long for each trial starts ten of them a second."""

SETTINGS = ("serve.downscale_to_zero_delay_s=600", "serve.max_queued_requests=1024", "serve.max_replicas=1")


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option(
    "--part", "parts", type=click.Choice(PARTS), multiple=True, help="What to measure; all of it if not given."
)
@click.option(
    "--times",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="So many times the sizes, but for processes.",
)
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Where the figure goes.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(
    recipe: str, overrides: tuple[str, ...], parts: tuple[str, ...], times: int, png: Path | None, as_json: bool
) -> None:
    """Measures what grows, and draws it."""
    measured: dict[str, Callable[[], list[Axis]]] = {
        "sweep": lambda: sweep_axes(times),
        "control_store": lambda: control_store_axes(times),
        "gateway": lambda: gateway_axes(recipe, overrides, times),
    }

    def measure() -> list[Figure]:
        axes = []
        for part in parts or PARTS:
            step(f"Scale: {part}")
            axes += measured[part]()
        for axis in axes:
            say(f"  {axis.name}: {axis}")
        if png is not None:
            write_figure(axes, png, "What grows, and by how much")
            say(f"  drawn in {png}")
        return [figure for axis in axes for figure in axis.figures()]

    run(measure, as_json=as_json)


def sweep_axes(times: int) -> list[Axis]:
    """Trials, what the searcher takes for one, results, and MLflow runs."""
    trials, suggestions, results = [], [], []
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder, connect(num_cpus=AT_ONCE):
        tracker = Tracker.open(sqlite_uri(folder), RECIPE.experiment)
        for size in (times * size for size in TRIALS):
            worked_s, search_s = _drive(tracker, folder, trials=size, epochs=1)
            trials.append((size, worked_s - search_s))
            suggestions.append((size / 2, search_s / size * 1000))  # the searcher knew half of them on average
        for epochs in (times * epochs for epochs in EPOCHS):
            worked_s, _ = _drive(tracker, folder, trials=NUM_REPORTING, epochs=epochs)
            results.append((NUM_REPORTING * epochs, worked_s))
        runs = [(size, _write_runs(tracker, size)) for size in (times * size for size in RUNS)]
    return [
        Axis("trials", "trials", "CPU s of the driver", tuple(trials)),
        Axis("suggestions", "trials before", "CPU ms of TPE", tuple(suggestions), SLOW_MS),
        Axis("results", "results", "CPU s of the driver", tuple(results)),
        Axis("mlflow_runs", "MLflow runs", "CPU s of the writer", tuple(runs)),
    ]


def _drive(tracker: Tracker, folder: str, *, trials: int, epochs: int) -> tuple[float, float]:
    """CPU seconds of this thread, which is the driver's, for a sweep, and those of them in which TPE suggests."""
    settings = RECIPE.search.model_copy(update={"num_trials": trials, "scheduler": "fifo"})
    started_s = time.thread_time()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        search = run_many(
            RECIPE.model_copy(update={"search": settings}),
            tracker,
            own,
            partial(report_epochs, epochs=epochs),
            epochs=epochs,
            max_concurrent=AT_ONCE,
            on_update=Measured().on_update,
        )
    worked_s = time.thread_time() - started_s
    say(f"  {trials} trials of {epochs} results: {worked_s:.2f} CPU s, of them {search.suggesting_cpu_s:.2f} of TPE")
    return worked_s, search.suggesting_cpu_s


def _write_runs(tracker: Tracker, size: int) -> float:
    """CPU seconds for so many runs; this process does nothing else meanwhile."""
    started_s = time.process_time()
    run_ids: dict[str, str] = {}
    writer = RunWriter(tracker, tracker.start("runs"), run_ids.__setitem__)
    for name in map(str, range(size)):
        writer.start(name, {"learning_rate": 1e-3, "weight_decay": 0.1})
        writer.log(name, {"loss": 0.5, "accuracy": 0.5, "macro_f1": 0.5, "seconds": 1.0}, 1)
        writer.end(name, "FINISHED")
    writer.close()
    return time.process_time() - started_s


def control_store_axes(times: int) -> list[Axis]:
    """Nodes that are there, and actors that come and go."""
    nodes, actors = [], []
    with connect(num_cpus=1):
        store = _control_store()
        for before, number in pairwise([1, *NODES]):
            for _ in range(before, number):
                _add_node()
            time.sleep(SETTLE_S)  # their agents are starting
            nodes.append((sum(node["Alive"] for node in ray.nodes()), busy_cores(store, WATCHED_S)))
            say(f"  {nodes[-1][0]} nodes: {nodes[-1][1]:.4f} cores of the GCS")
    with connect(num_cpus=1):
        store = _control_store()
        for size in (times * size for size in ACTORS):
            began_at, before_s = time.monotonic(), _cpu_s(store)
            _come_and_go(size)
            idle_s = nodes[0][1] * (time.monotonic() - began_at)  # what it works when nothing happens
            actors.append((size, _cpu_s(store) - before_s - idle_s))
            say(f"  {size} actors: {actors[-1][1]:.3f} CPU s of the GCS")
    return [
        Axis("nodes", "nodes", "cores of the GCS", tuple(nodes), FULL_CORE),
        Axis("actors", "actors", "CPU s of the GCS", tuple(actors)),
    ]


def _control_store() -> psutil.Process:
    return next(child for child in psutil.Process().children(recursive=True) if child.name() == "gcs_server")


class _Nothing:
    def is_there(self) -> bool:
        return True


def _come_and_go(size: int) -> None:
    actor: Any = ray.remote(num_cpus=0)(_Nothing)
    actors = [actor.remote() for _ in range(size)]
    ray.get([one.is_there.remote() for one in actors])
    for one in actors:
        ray.kill(one)


def _add_node() -> None:
    """One more node on this machine, which ends with this process's connection."""
    address = ray.get_runtime_context().gcs_address
    Node(
        RayParams(gcs_address=address, node_ip_address=LOOPBACK, num_cpus=0, object_store_memory=100_000_000),
        head=False,
        shutdown_at_exit=True,
        spawn_reaper=True,
    )


def gateway_axes(recipe: str, overrides: Sequence[str], times: int) -> list[Axis]:
    """Requests, and endpoints that nobody asks."""
    with served(recipe, [*SETTINGS, *overrides]) as endpoint, connect(private=False):
        ask(endpoint.url, endpoint.texts[0])
        wait(endpoint.url, "awake")
        gateway = gateway_process()
        controller = psutil.Process(pids("controller", endpoint.job.recipe.name)[0])
        axes = [_requests(endpoint, gateway, connections, times) for connections in CONNECTIONS]
        shared, memory, own = [], [], []
        for size in _growing(endpoint, "shared", [times * size for size in SHARED_ENDPOINTS]):
            shared.append((size, busy_cores(gateway, WATCHED_S)))
            memory.append((size, _uss_mb(gateway)))
            say(f"  {size} shared: the gateway takes {shared[-1][1]:.4f} cores and {memory[-1][1]:.1f} MB")
        for size in _growing(endpoint, "own", [times * size for size in OWN_ENDPOINTS]):
            own.append((size, busy_cores(controller, WATCHED_S)))
            say(f"  {size} with replicas of their own: Serve's controller takes {own[-1][1]:.4f} cores")
    return [
        *axes,
        Axis("shared_endpoints", "sleeping endpoints", "cores of the gateway", tuple(shared), FULL_CORE),
        Axis("shared_endpoints_memory", "sleeping endpoints", "MB of the gateway", tuple(memory), MEMORY_LIMIT_MB),
        Axis("own_endpoints", "sleeping endpoints", "cores of Serve's controller", tuple(own), FULL_CORE),
    ]


def _requests(endpoint: Served, gateway: psutil.Process, connections: int, times: int) -> Axis:
    """Requests of one text, each answered by a replica; the gateway's CPU time for longer and longer loads."""
    bodies = [json.dumps({"text": text}).encode() for text in endpoint.texts]
    points = []
    for seconds in (times * seconds for seconds in LOAD_S):
        before_s = _cpu_s(gateway)
        course = varying_load(endpoint.url, bodies, [Stage(connections, seconds)], asleep_within_s=0.0)
        if course.num_failed():
            raise ServingError(f"{course.num_failed()} requests to {endpoint.url} failed; their cost tells nothing")
        points.append((len(course.requests), _cpu_s(gateway) - before_s))
        say(f"  {connections} connections: {points[-1][0]} requests, {points[-1][1]:.2f} CPU s of the gateway")
    return Axis(f"requests_{connections}", "requests", "CPU s of the gateway", tuple(points))


def _growing(endpoint: Served, pool: PoolKind, sizes: Sequence[int]) -> Iterator[int]:
    """Deploys copies of the endpoint until there are so many, size by size; nobody asks them."""
    for before, size in pairwise([0, *sizes]):
        deploy_copies(endpoint, [f"{pool}-{number:05}" for number in range(before, size)], pool=pool)
        yield size


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _uss_mb(process: psutil.Process) -> float:
    return float(process.memory_full_info().uss / 1e6)


if __name__ == "__main__":
    main()
