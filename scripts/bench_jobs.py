"""What a job costs the requests beside it, and what becomes of it when processes die.

    python -m scripts.bench_jobs recipes/quickstart.yaml
    python -m scripts.bench_jobs recipes/sms_spam.yaml data.source=PATH/train.csv data.text_column=text \\
        model.base=PATH/minilm

The recipe is trained for one epoch, promoted and deployed on a cluster of its own. One text a request is asked at 1 and
8 connections, first alone and then beside jobs that do not end meanwhile; the baselines are the figures without. Then a
job has the endpoint to itself, and its rate is held against the bare engine's. Last, the replica is killed under a job,
whose predictions have to be the same, and the gateway, which has to say that its jobs are gone.
"""

import json
import time
from collections.abc import Sequence
from itertools import cycle, islice

import click
import httpx

from common.classifier import Classifier
from common.cluster import connect
from common.errors import ServingError
from scripts.benchmark import Figure, run
from scripts.display import say, step
from scripts.fault_injection import kill, wait_until_replaced
from scripts.load import load
from scripts.served import Served, ask, served
from serve.client import Client, Prediction, RefusedError
from serve.jobs import MAX_TEXTS

CONNECTIONS = (1, 8)
NUM_TEXTS = 4_000
STAYS_AWAKE_S = 600
REPLACED_WITHIN_S = 60.0


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("--seconds", default=8.0, show_default=True, help="Of load for each measurement.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(recipe: str, overrides: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """Measures jobs and requests beside each other."""

    def measure() -> list[Figure]:
        with (
            served(recipe, [f"serve.downscale_to_zero_delay_s={STAYS_AWAKE_S}", *overrides]) as endpoint,
            connect(private=False),
        ):
            return _measure(endpoint, seconds)

    run(measure, as_json=as_json)


def _measure(endpoint: Served, seconds: float) -> list[Figure]:
    ask(endpoint.url, "wake")
    texts = list(islice(cycle(endpoint.texts), NUM_TEXTS))
    with Client(endpoint.url) as client:
        figures = _beside_each_other(endpoint, client, seconds)
        step("A job alone")
        rate, expected = _rate(client, texts)
        say(f"  {rate:.0f} texts/s")
        engine = _engine(endpoint, texts)
        _with_deaths(endpoint, client, texts, expected)
    return [*figures, Figure("job_texts_per_s", rate, "texts/s", engine)]


def _beside_each_other(endpoint: Served, client: Client, seconds: float) -> list[Figure]:
    url = f"{endpoint.url}/classify"
    bodies = [json.dumps({"text": text}).encode() for text in endpoint.texts]
    figures = []
    for connections in CONNECTIONS:
        step(f"Requests at {connections} connections: alone, and beside jobs")
        alone = load(url, bodies, connections=connections, seconds=seconds)
        jobs = [client.submit(islice(cycle(endpoint.texts), MAX_TEXTS)) for _ in range(2)]
        beside = load(url, bodies, connections=connections, seconds=seconds)
        answered = sum(_end(endpoint, client, job) for job in jobs)
        say(f"  alone  {alone}\n  beside {beside}   {answered} texts of jobs meanwhile")
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            values = (beside.quantile_ms(share), "ms", alone.quantile_ms(share))
            figures.append(Figure(f"request_{name}_beside_job_{connections}", *values, more_is_better=False))
    return figures


def _end(endpoint: Served, client: Client, job: str) -> int:
    """Ends a job; returns how many of its texts have been answered. Raises `ServingError` when it has ended before."""
    found = httpx.get(f"{endpoint.url}/jobs/{job}", trust_env=False).raise_for_status().json()
    client.cancel(job)
    if found["state"] == "done":
        raise ServingError("a job ended before the requests beside it; give fewer --seconds")
    return int(found["answered"])


def _rate(client: Client, texts: Sequence[str]) -> tuple[float, list[Prediction]]:
    started = time.perf_counter()
    found = client.result(client.submit(texts))
    return len(texts) / (time.perf_counter() - started), found


def _engine(endpoint: Served, texts: Sequence[str]) -> float:
    classifier = Classifier.load(endpoint.engine_folder)
    started = time.perf_counter()
    classifier.classify(texts)
    return len(texts) / (time.perf_counter() - started)


def _with_deaths(endpoint: Served, client: Client, texts: Sequence[str], expected: Sequence[Prediction]) -> None:
    name = endpoint.job.recipe.name
    step("A job whose replica is killed, and one whose gateway is")
    job = client.submit(texts)
    killed = kill("replica", name)
    if [found.label for found in client.result(job)] != [found.label for found in expected]:
        raise ServingError("a job whose replica was killed has other predictions; see the gateway's log")
    wait_until_replaced("replica", name, killed, REPLACED_WITHIN_S)
    say("  replica: the same predictions")
    job = client.submit(texts)
    killed = kill("gateway", name)
    wait_until_replaced("gateway", name, killed, REPLACED_WITHIN_S)
    try:
        client.result(job)
    except RefusedError as error:
        say(f"  gateway: {error}")
    else:
        raise ServingError("a job outlived its gateway")


if __name__ == "__main__":
    main()
