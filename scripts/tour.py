"""What `scripts/quickstart` runs: the whole line, then its endpoint woken, left alone until it sleeps, woken again."""

import time
from typing import Any

import httpx

from common.errors import ServingError
from common.ray_head import free_port, is_free
from common.recipe_file import shipped_recipes
from scripts.cli import guarded
from scripts.display import say, step
from scripts.job import Job
from scripts.line import run
from scripts.serving import GATEWAY_PORT, up_gateway

TEXTS = (
    "Fenwick Bank raises full-year guidance after record profit",
    "Kestrel Pharma first-half net interest income falls 14%",
    "Galdor Motors names new chief financial officer",
)
ANSWER_TIMEOUT_S = 60.0
STATE_TIMEOUT_S = 60.0


def tour() -> dict[str, Any]:
    """Runs the quickstart recipe and shows its endpoint; every number is measured here and now."""
    started = time.monotonic()
    job = Job.load(shipped_recipes()["quickstart"])
    up_gateway(job.storage, job.tracking_uri, gateway_port=GATEWAY_PORT if is_free(GATEWAY_PORT) else free_port())
    result = run(job)
    url = result["deploy"]["url"]
    step(f"Asking {url}")
    state = _health(url)
    first_s = _ask(url, shown=True)
    say(f"  first answer after {first_s:.2f} s (it was {state['state']} with {state['replicas']} replicas)")
    say(f"  second answer after {_ask(url) * 1000:.0f} ms")
    own_s = _wait_until(url, "awake")
    say(f"  its own replica is there {own_s:.1f} s later; until then the standby answers")
    waited_s = _wait_until(url, "asleep")
    say(f"  asleep again, 0 replicas, {own_s + waited_s:.0f} s after the last request")
    say(f"  woken again: answer after {_ask(url):.2f} s")
    step(f"Done in {time.monotonic() - started:.0f} s")
    say(f"  Try next:  curl -s {url}/classify -H 'content-type: application/json' -d '{{\"texts\": [\"{TEXTS[0]}\"]}}'")
    say(f"             open {url.rsplit('/', 1)[0]}/docs in a browser")
    say("             .venv/bin/tuneserve check YOUR_RECIPE.yaml, then run: recipes/ holds examples")
    say(f"             .venv/bin/mlflow ui --backend-store-uri {job.tracking_uri}")
    say("  End it:    .venv/bin/tuneserve down")
    return result


def _ask(url: str, *, shown: bool = False) -> float:
    """Seconds until the answer to a request with three texts."""
    started = time.monotonic()
    response = httpx.post(f"{url}/classify", json={"texts": TEXTS}, timeout=ANSWER_TIMEOUT_S, trust_env=False)
    elapsed_s = time.monotonic() - started
    if response.status_code != 200:
        raise ServingError(f"{url}/classify answered {response.status_code}: {response.text}")
    if shown:
        for text, prediction in zip(TEXTS, response.json()["predictions"], strict=True):
            say(f"  {prediction['label']:<8} {prediction['score']:.3f}  {text}")
    return elapsed_s


def _health(url: str) -> dict[str, Any]:
    return dict(httpx.get(f"{url}/healthz", timeout=ANSWER_TIMEOUT_S, trust_env=False).json())


def _wait_until(url: str, state: str) -> float:
    """Seconds until the endpoint is `awake` or `asleep`."""
    started = time.monotonic()
    while (found := _health(url)["state"]) != state:
        if time.monotonic() - started > STATE_TIMEOUT_S:
            raise ServingError(f"{url} is still {found} {STATE_TIMEOUT_S:.0f} s after its last request, not {state}")
        time.sleep(0.25)
    return time.monotonic() - started


def main() -> None:
    """Ends with the exit codes of the command line; says what is left running when it does not get to the end."""
    try:
        guarded(tour, resume_with=None)
    except SystemExit:
        say(
            "The local cluster stays up: run scripts/quickstart again to go on, or end it with .venv/bin/tuneserve down"
        )
        raise


if __name__ == "__main__":
    main()
