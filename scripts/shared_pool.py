"""What the shared pool costs: a first request while it is awake, a deployment, and endpoints that nobody asks.

A part of `scripts.bench_wake`.
"""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psutil

from common.recipe import PoolKind, Serve
from common.registry import ModelRegistry
from common.tracking import open_client
from scripts.benchmark import Figure
from scripts.display import say, step
from scripts.served import Served, ask, wait
from serve.application import deploy_endpoint, set_pool
from serve.endpoints import GATEWAY
from serve.pool import PoolSpec
from serve.ray_serve import GATEWAY_DEPLOYMENT, serve_details

STAYS_AWAKE_S = 600.0
IDLE_S = 20.0
"""For which the gateway is watched while nobody asks."""


def measure_pool(endpoint: Served, *, num_endpoints: int, rounds: int, baseline_s: float | None) -> list[Figure]:
    """Deploys copies of the endpoint's model on the pool, wakes it with the first and asks `rounds` others once."""
    step(f"{num_endpoints} endpoints on the shared pool")
    set_pool(PoolSpec(max_replicas=1, memory_gb=8.0, downscale_to_zero_delay_s=STAYS_AWAKE_S))
    names = [f"copy-{number:03}" for number in range(num_endpoints)]
    urls, seconds = zip(*deploy_copies(endpoint, names, pool="shared"), strict=True)
    say(f"  deployed: p50 {median(seconds):.3f} s, the first {seconds[0]:.2f} s with the pool itself")
    cores = busy_cores(gateway_process(), IDLE_S)
    say(f"  the gateway takes {cores:.1%} of a core while nobody asks")
    say(f"  the first answer while the pool sleeps: {ask(urls[0], endpoint.texts[0]):.3f} s")
    wait(urls[0], "awake")
    ask(urls[0], endpoint.texts[0])
    first = _ask_each(urls[1 : rounds + 1], endpoint.texts)
    again = _ask_each(urls[1 : rounds + 1], endpoint.texts)
    say(f"  a model that is not loaded: p50 {median(first):.3f} s, longest {max(first):.3f} s")
    say(f"  one that is: p50 {median(again):.3f} s")
    return [
        Figure("wake_shared_p50_s", median(first), "s", baseline_s, more_is_better=False),
        Figure("shared_deploy_p50_s", median(seconds), "s", more_is_better=False),
        Figure("shared_idle_gateway_cores", cores, "cores", more_is_better=False),
    ]


def deploy_copies(endpoint: Served, names: Sequence[str], *, pool: PoolKind) -> list[tuple[str, float]]:
    """Endpoints whose models are copies of this one's: each one's URL, and the seconds that its deployment took."""
    _register(endpoint, names)
    return [_deploy(endpoint, name, pool) for name in names]


def busy_cores(process: psutil.Process, seconds: float) -> float:
    """Cores that a process keeps busy while it is watched."""
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / seconds


def gateway_process() -> psutil.Process:
    """The gateway's."""
    details = serve_details()
    assert details is not None
    (replica,) = details["applications"][GATEWAY]["deployments"][GATEWAY_DEPLOYMENT]["replicas"]
    return psutil.Process(replica["pid"])


def _ask_each(urls: Sequence[str], texts: Sequence[str]) -> list[float]:
    return [ask(url, texts[number % len(texts)]) for number, url in enumerate(urls)]


def _register(endpoint: Served, names: Sequence[str]) -> None:
    """A model for each name, in a folder of its own: replicas hold models by their folder."""
    client = open_client(endpoint.job.tracking_uri)
    registry = ModelRegistry(endpoint.job.tracking_uri)
    for name in names:
        folder = Path(endpoint.job.storage) / "copies" / name
        shutil.copytree(endpoint.engine_folder, folder / "onnx", copy_function=os.link)
        client.create_registered_model(name)
        registry.set_alias(name, "champion", int(client.create_model_version(name, str(folder)).version))


def _deploy(endpoint: Served, name: str, pool: PoolKind) -> tuple[str, float]:
    """The endpoint's URL, and the seconds until the gateway answers for it."""
    recipe = endpoint.job.recipe
    own = recipe.registry.model_copy(update={"model": name, "alias": "champion"})
    copy = recipe.model_copy(update={"name": name, "serve": Serve(pool=pool), "registry": own})
    started = time.perf_counter()
    deployed = deploy_endpoint(
        copy, tracking_uri=endpoint.job.tracking_uri, storage=endpoint.job.storage, code_uri=None
    )
    return deployed.url, time.perf_counter() - started
