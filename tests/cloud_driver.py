"""What a job does on the head of a `FakeCloud`: `python -m tests.cloud_driver sweep|endpoints`.

Prints what it saw of the machines as one line of JSON. Trials train nothing: they hold a GPU that is not there, and
leave an empty checkpoint.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import ray
import ray.tune
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

import tune.sweep
from common.cluster import connect, offers, resources
from common.dataset import load_splits
from common.ray_head import free_port
from common.recipe import Data, Model, Recipe, Registry, Serve, Split, Train
from common.recipe_file import dump_recipe
from common.registry import ModelRegistry
from common.search_range import Range
from common.search_settings import Search
from common.tokenised import prepare
from common.tracking import Tracker
from serve.application import deploy_endpoint, endpoints, start_gateway
from serve.backend import STANDBY
from serve.endpoints import GATEWAY
from serve.ray_serve import REPLICA_RESOURCE, serve_details
from tests.tiny_model import register
from tune.allocation import allocate
from tune.checkpoint import seal
from tune.trial import TrialTask

DEADLINE_S = 90.0
NUM_TRIALS = 2
WATCHED_S = 4.0
"""Several rounds of the autoscaler: who has not asked for a machine by then has not asked."""

DECLARED = "declared"
"""The endpoint of the config file; it serves the recipe's model."""

RECIPE = Recipe(
    name="cloud",
    data=Data(source="builtin:finance_headlines", split=Split(validation=0.05, test=0.85)),
    model=Model(base="builtin:tiny_bert", max_length=48),
    train=Train(epochs=1),
    search=Search(space={"weight_decay": Range(uniform=(0.0, 0.1))}, num_trials=NUM_TRIALS),
    serve=Serve(downscale_to_zero_delay_s=10.0),
)


def machines() -> list[dict[str, float]]:
    """What each living machine but the head offers."""
    offered = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [offer for offer in offered if "node:__internal_head__" not in offer]


def counted() -> dict[str, int]:
    """Machines with GPUs and machines for endpoints."""
    found = machines()
    return {
        "gpu": sum("GPU" in offer for offer in found),
        "serving": sum(REPLICA_RESOURCE in offer for offer in found),
        "all": len(found),
    }


def wait_for(condition: Callable[[], bool], what: str) -> float:
    """Seconds until the condition came true."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + DEADLINE_S, f"{what} did not happen: {counted()}"
        time.sleep(0.1)
    return time.monotonic() - started


def hold_a_gpu(config: Mapping[str, Any], task: TrialTask) -> None:
    """A trial that reports once it is let go, so that all of them run at the same time."""
    gate = Path(task.prepared_uri).parent / "gate"
    deadline = time.monotonic() + DEADLINE_S
    while not gate.exists():
        assert time.monotonic() < deadline, "nobody lets the trial go"
        time.sleep(0.05)
    assert len(ray.get_gpu_ids()) == 1, ray.get_gpu_ids()
    score = 1.0 - config["params"]["weight_decay"]
    measured = {"train_loss": 1.0, "loss": 1.0 - score, "accuracy": score, "macro_f1": score}
    with tempfile.TemporaryDirectory() as folder:
        seal(Path(folder))
        ray.tune.report(
            {"epoch": 1, **measured, "tokens_per_s": 1.0, "samples_per_s": 1.0, "seconds": 0.0},
            checkpoint=ray.tune.Checkpoint.from_directory(folder),
        )


def run_sweep(folder: Path) -> dict[str, Any]:
    """A sweep of two trials with a GPU each, on a cluster that has none yet."""
    before = counted()
    allocation = allocate(RECIPE.train, resources(), RECIPE.search)
    prepared = prepare(RECIPE, load_splits(RECIPE.data), str(folder))
    seen: list[dict[str, int]] = []

    def let_go() -> None:
        wait_for(lambda: counted()["gpu"] == NUM_TRIALS, "a machine for each trial")
        seen.append(counted())
        (Path(prepared.uri).parent / "gate").touch()

    watcher = threading.Thread(target=let_go)
    watcher.start()
    tune.sweep.run_trial = hold_a_gpu  # type: ignore[assignment]
    result = tune.sweep.sweep(
        RECIPE,
        prepared,
        sweep_id="cloud",
        folder=f"{folder}/runs/cloud",
        allocation=allocation,
        tracker=Tracker.open(os.environ["MLFLOW_TRACKING_URI"], "cloud"),
        recipe_yaml="",
        on_update=lambda record: None,
    )
    watcher.join()
    idle_s = wait_for(lambda: counted()["all"] == 0, "the end of idle machines")
    return {
        "before": before,
        "while": seen[0],
        "states": [trial.state for trial in result.trials],
        "gpus_per_trial": allocation.gpus_per_worker,
        "idle_s": idle_s,
    }


def ask(url: str) -> str:
    """The label of a text."""
    answer = httpx.post(f"{url}/classify", json={"text": "good good"}, timeout=60.0, trust_env=False)
    answer.raise_for_status()
    return str(answer.json()["label"])


def most_machines() -> int:
    """The most that were there at a time, over some rounds of the autoscaler."""
    most, until = 0, time.monotonic() + WATCHED_S
    while time.monotonic() < until:
        most = max(most, counted()["all"])
        time.sleep(0.1)
    return most


def declare(folder: Path, port: int) -> None:
    """Hands Serve a config file as KubeRay does: the gateway, the standby, and an endpoint by its recipe."""
    recipe = folder / "declared.yaml"
    declared = RECIPE.model_copy(update={"name": DECLARED, "registry": Registry(model=RECIPE.name)})
    recipe.write_text(dump_recipe(declared), "utf-8")
    applications = [
        {"name": GATEWAY, "import_path": "serve.declared:gateway", "args": {"port": port}},
        {"name": STANDBY, "import_path": "serve.declared:standby", "args": {}},
        {"name": DECLARED, "import_path": "serve.declared:endpoint", "args": {"recipe": str(recipe)}},
    ]
    config = {
        "proxy_location": "Disabled",
        "applications": [{**application, "route_prefix": None} for application in applications],
    }
    ServeSubmissionClient(os.environ["RAY_API_SERVER_ADDRESS"]).deploy_applications(config)


def is_running(name: str) -> bool:
    """Whether Serve says so of an application."""
    found = (serve_details() or {"applications": {}})["applications"].get(name)
    assert found is None or found["status"] not in ("DEPLOY_FAILED", "UNHEALTHY"), found["message"]
    return found is not None and found["status"] == "RUNNING"


def replicas() -> dict[str, int]:
    """Of each endpoint."""
    return {endpoint.name: endpoint.replicas for endpoint in endpoints()}


def run_endpoints(folder: Path) -> dict[str, Any]:
    """A declared endpoint and one that is deployed beside it: asleep, asked, and left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    tracking_uri = os.environ["MLFLOW_TRACKING_URI"]
    register(tracking_uri, RECIPE.name, folder / "model")
    ModelRegistry(tracking_uri).set_alias(RECIPE.name, "champion", 1)
    port = free_port()
    declare(folder, port)
    for name in (GATEWAY, STANDBY, DECLARED):
        wait_for(lambda: is_running(name), f"{name} as Serve was told")  # noqa: B023 - waited for at once
    url = start_gateway("127.0.0.1", free_port())  # finds the declared one
    deployed = deploy_endpoint(RECIPE, tracking_uri=tracking_uri, storage=str(folder), code_uri=None)
    asleep = most_machines()
    answers = [ask(f"{url}/{DECLARED}"), ask(deployed.url)]
    wait_for(lambda: set(replicas().values()) == {1}, "a replica of each")
    awake = counted()
    declare(folder, port)
    answers.append(ask(deployed.url))
    wait_for(lambda: set(replicas().values()) == {0}, "sleep")
    wait_for(lambda: counted()["all"] == 0, "the end of the idle machine")
    return {
        "offered": offers(REPLICA_RESOURCE),
        "declared_port": url.endswith(f":{port}"),
        "asleep": asleep,
        "awake": awake,
        "answers": answers,
        "left": sorted(replicas()),
    }


def main(verb: str) -> None:
    """Joins the cluster that the environment names, and does one thing there."""
    verbs: dict[str, Callable[[Path], dict[str, Any]]] = {"sweep": run_sweep, "endpoints": run_endpoints}
    with connect(private=False):
        said = verbs[verb](Path(os.environ["TUNESERVE_STORAGE"]))
    print(json.dumps(said))  # noqa: T201 - the answer


if __name__ == "__main__":
    main(*sys.argv[1:])
