"""An endpoint for benchmarks: a recipe trained briefly, promoted and deployed on a cluster of its own that vanishes."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from common.cluster import down
from common.dataset import load_splits
from common.errors import ServingError
from common.location import local_path
from common.ray_environment import PROJECT_ROOT
from common.ray_head import free_port
from common.registry import ModelRegistry
from scripts.job import Job
from scripts.serving import deploy, up_gateway
from scripts.steps import promote, train

CHANGE_TIMEOUT_S = 60.0
LOOK_INTERVAL_S = 0.02


@dataclass(frozen=True)
class Served:
    """A deployed champion."""

    job: Job
    url: str
    model_folder: Path
    """The registered MLflow model."""
    engine_folder: Path
    """What a replica loads."""
    texts: tuple[str, ...]
    """Of the validation split."""


@contextmanager
def served(recipe: str, overrides: Sequence[str], *, by_job: bool = False) -> Iterator[Served]:
    """Trains for one epoch, promotes and deploys; at the end the cluster is ended and everything is deleted.

    With `by_job` a submitted job deploys, and the endpoint outlives it.
    """
    with tempfile.TemporaryDirectory(prefix="tuneserve-bench-") as folder:
        os.environ["TUNESERVE_HOME"] = f"{folder}/home"
        job = Job.load(recipe, ["train.epochs=1", "registry.quick_checks=[]", *overrides], f"{folder}/storage", None)
        try:
            up_gateway(job.storage, job.tracking_uri, gateway_port=free_port())
            train(job)
            promote(job)
            url = _deploy_by_job(recipe, overrides) if by_job else str(deploy(job)["url"])
            registry = ModelRegistry(job.tracking_uri)
            version = registry.by_alias(job.recipe.registered_model, job.recipe.registry.alias)
            engine = local_path(registry.fetchable_uri(version, job.storage))
            assert engine is not None, "the storage is a local folder"
            texts = tuple(load_splits(job.recipe.data).validation["text"].to_pylist())
            yield Served(job, url, engine.parent, engine, texts)
        finally:
            down()


def _deploy_by_job(recipe: str, overrides: Sequence[str]) -> str:
    command = [sys.executable, "-m", "scripts.cli", "submit", "--json", "--", "deploy", recipe, *overrides]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
    return str(json.loads(done.stdout)["url"])


def ask(url: str, text: str) -> float:
    """Seconds to the answer, on a connection of its own."""
    body = json.dumps({"text": text})
    started = time.perf_counter()
    response = httpx.post(
        f"{url}/classify", content=body, headers={"content-type": "application/json"}, timeout=60.0, trust_env=False
    )
    seconds = time.perf_counter() - started
    if response.status_code != 200:
        raise ServingError(f"{url}/classify answered {response.status_code}: {response.text}")
    return seconds


def wait(url: str, state: str) -> None:
    """Until the endpoint is in that state. Raises `ServingError`."""
    deadline = time.monotonic() + CHANGE_TIMEOUT_S
    while httpx.get(f"{url}/healthz", trust_env=False).json()["state"] != state:
        if time.monotonic() > deadline:
            raise ServingError(f"{url} is not {state} after {CHANGE_TIMEOUT_S:.0f} s")
        time.sleep(LOOK_INTERVAL_S)
