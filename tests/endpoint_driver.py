"""A driver of its own cluster, for tests that must not lose theirs: `python tests/endpoint_driver.py STEP FOLDER`.

`deploy` serves a tiny model and starts a detached actor beside it; `ask` calls that actor. Each prints one JSON object.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray

from common.ray_head import LOOPBACK, free_port
from common.recipe import Recipe
from common.registry import ModelRegistry
from common.tracking import sqlite_uri
from serve.application import deploy_endpoint, start_gateway
from tests.tiny_model import register

NAMESPACE = "tests"


@ray.remote(num_cpus=1, max_restarts=0)
class Counter:
    """Remembers how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def call(self) -> tuple[int, int]:
        self.calls += 1
        return self.calls, os.getpid()


def deploy(folder: Path) -> dict[str, Any]:
    counter: Any = Counter.options(name="counter", namespace=NAMESPACE, lifetime="detached").remote()  # type: ignore[attr-defined]
    calls, pid = ray.get(counter.call.remote())
    uri = sqlite_uri(str(folder))
    ModelRegistry(uri).set_alias("kept", "champion", register(uri, "kept", folder / "model"))
    url = start_gateway(LOOPBACK, free_port())
    recipe = Recipe.model_validate(
        {"name": "kept", "data": {"source": "unused"}, "model": {"base": "unused"}, "serve": {"min_replicas": 1}}
    )
    deploy_endpoint(recipe, tracking_uri=uri, storage=str(folder), code_uri=None)
    return {"calls": calls, "pid": pid, "url": f"{url}/kept/classify"}


def ask(_: Path) -> dict[str, Any]:
    calls, pid = ray.get(ray.get_actor("counter", NAMESPACE).call.remote())
    return {"calls": calls, "pid": pid}


if __name__ == "__main__":
    ray.init("auto", log_to_driver=False, logging_level="ERROR")
    sys.stdout.write(json.dumps({"deploy": deploy, "ask": ask}[sys.argv[1]](Path(sys.argv[2]))))
