"""What an awake endpoint does under load, beside the usual ways to serve the same model.

    python -m scripts.bench_serve recipes/quickstart.yaml
    python -m scripts.bench_serve recipes/sms_spam.yaml data.source=PATH/train.csv data.text_column=text \\
        model.base=PATH/minilm

The recipe is trained for one epoch, promoted and deployed on a cluster of its own. Then, one after another on this
machine, with the load made on the same cores: our endpoint, `mlflow models serve` and Ray Serve with a Transformers
pipeline (`scripts/plain_serve.py`), each with one text a request at 1, 8, 32 and 128 connections; our endpoint with 32
texts a request at 4 connections; and the bare engine in this process on one thread: a text at a time, and all texts in
batches of 32 sorted by length.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import httpx
import numpy as np

from common.classifier import Classifier
from common.errors import ServingError
from common.ray_head import free_port
from scripts.benchmark import Figure, run
from scripts.display import say, step
from scripts.load import Load, load
from scripts.served import Served, served

CONNECTIONS = (1, 8, 32, 128)
TEXTS_PER_REQUEST = 32
BATCH_CONNECTIONS = 4
NUM_ENGINE_TEXTS = 1024
PEER_START_TIMEOUT_S = 120.0
STAYS_AWAKE_S = 600


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("--seconds", default=8.0, show_default=True, help="Of load for each measurement.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(recipe: str, overrides: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """Measures our endpoint and its peers."""

    def measure() -> list[Figure]:
        with served(recipe, [f"serve.downscale_to_zero_delay_s={STAYS_AWAKE_S}", *overrides]) as endpoint:
            return _measure(endpoint, seconds)

    run(measure, as_json=as_json)


def _measure(endpoint: Served, seconds: float) -> list[Figure]:
    texts = endpoint.texts
    engine_p50_ms, engine_per_s = _engine(endpoint)
    _wait_until_awake(endpoint.url)
    step("Our endpoint")
    url = f"{endpoint.url}/classify"
    ours = _by_connections(url, [_json({"text": text}) for text in texts], seconds)
    requests = [list(texts[start : start + TEXTS_PER_REQUEST]) for start in range(0, len(texts), TEXTS_PER_REQUEST)]
    full = [_json({"texts": request}) for request in requests if len(request) == TEXTS_PER_REQUEST]
    batches = load(url, full, connections=BATCH_CONNECTIONS, seconds=seconds)
    say(f"  {TEXTS_PER_REQUEST} texts a request, {BATCH_CONNECTIONS} connections: {batches}")
    with _mlflow(endpoint) as peer:
        step("mlflow models serve")
        mlflow = _by_connections(peer, [_json({"inputs": [text]}) for text in texts], seconds)
    with _plain(endpoint) as peer:
        step("Ray Serve with a pipeline")
        plain = _by_connections(peer, [_json({"text": text}) for text in texts], seconds)
    return [
        *(Figure(f"serve_rps_{n}", ours[n].per_s, "requests/s", mlflow[n].per_s) for n in CONNECTIONS),
        Figure("serve_rps_32_against_ray_serve", ours[32].per_s, "requests/s", plain[32].per_s),
        Figure("serve_texts_per_s_batch32", batches.per_s * TEXTS_PER_REQUEST, "texts/s", engine_per_s),
        Figure("serve_p50_over_engine_ms", ours[1].quantile_ms(0.5) - engine_p50_ms, "ms", more_is_better=False),
    ]


def _engine(endpoint: Served) -> tuple[float, float]:
    """Median milliseconds for one text, and texts a second in sorted batches."""
    classifier = Classifier.load(endpoint.engine_folder)
    texts = (endpoint.texts * (NUM_ENGINE_TEXTS // len(endpoint.texts) + 1))[:NUM_ENGINE_TEXTS]
    classifier.classify(texts[:TEXTS_PER_REQUEST])
    times = [_seconds(lambda text=text: classifier.classify([text])) for text in texts]  # type: ignore[misc]
    p50_ms, per_s = float(np.median(times)) * 1000, len(texts) / _seconds(lambda: classifier.classify(texts))
    step(f"The bare engine ({classifier.precision}): one text {p50_ms:.1f} ms, sorted batches {per_s:.0f} texts/s")
    return p50_ms, per_s


def _by_connections(url: str, bodies: Sequence[bytes], seconds: float) -> dict[int, Load]:
    loads = {}
    for connections in CONNECTIONS:
        loads[connections] = load(url, bodies, connections=connections, seconds=seconds)
        say(f"  {connections:>3} connections: {loads[connections]}")
    return loads


def _wait_until_awake(url: str) -> None:
    deadline = time.monotonic() + PEER_START_TIMEOUT_S
    while httpx.get(f"{url}/healthz", trust_env=False).json()["replicas"] == 0:
        if time.monotonic() > deadline:
            raise ServingError(f"{url} has no replica after {PEER_START_TIMEOUT_S:.0f} s")
        httpx.post(f"{url}/classify", json={"text": "wake"}, timeout=60.0, trust_env=False)


@contextmanager
def _mlflow(endpoint: Served) -> Iterator[str]:
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", str(endpoint.model_folder), "-h", "127.0.0.1", "-p", str(port)]
    with _peer([sys.executable, "-m", *command, "--env-manager", "local"], f"http://127.0.0.1:{port}/ping"):
        yield f"http://127.0.0.1:{port}/invocations"


@contextmanager
def _plain(endpoint: Served) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "scripts.plain_serve", str(endpoint.model_folder), str(port)]
    with _peer(command, f"http://127.0.0.1:{port}/-/healthz"):
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def _peer(command: Sequence[str], health_url: str) -> Iterator[None]:
    """Another server, while it is measured."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # MLflow calls `uvicorn` by its name.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + PEER_START_TIMEOUT_S
        while not _answers(health_url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServingError(f"{' '.join(command)} does not answer at {health_url}")
            time.sleep(0.2)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


if __name__ == "__main__":
    main()
