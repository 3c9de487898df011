"""`tuneserve pool`: what bounds the shared pool of replicas, and how it is."""

from dataclasses import asdict, replace
from typing import Any

from common.cluster import connect
from scripts.display import say
from scripts.job import storage_location, tracking_location
from scripts.serving import gateway_at_hand, is_cluster_at_hand
from scripts.steps import Result
from serve.application import endpoints, pool, set_pool
from serve.pool import PoolSpec


def show_or_bound(*, storage: str | None, mlflow_uri: str | None, **bounds: Any) -> Result:
    """The shared pool, once those of `bounds` (fields of `PoolSpec`) that are not None are set, which starts it too."""
    given = {name: value for name, value in bounds.items() if value is not None}
    if given:
        place = storage_location(storage)
        with gateway_at_hand(place, tracking_location(mlflow_uri, place)) as code_uri:
            running = pool()
            before = running.spec if running else PoolSpec()
            set_pool(replace(before, code_uri=code_uri, **given))  # with this code: how a pool is brought up to date
            return _shown()
    if is_cluster_at_hand():
        with connect(private=False):
            return _shown()
    say("no cluster is up, and so no pool")
    return {"pool": None}


def _shown() -> Result:
    found = pool()
    if found is None:
        say("no pool runs: the first deployment with serve.pool=shared starts it, or `tuneserve pool --max-replicas N`")
        return {"pool": None}
    names = [endpoint.name for endpoint in endpoints() if endpoint.pool == "shared"]
    spec = found.spec
    say(f"pool      {found.num_running} replicas of at most {spec.max_replicas}, {found.num_starting} starting")
    say(f"          each holds models of {spec.memory_gb:g} GB")
    say(f"          the last goes after {spec.downscale_to_zero_delay_s:g} s without work")
    say(f"          answers for {len(names)} endpoints")
    return {
        "pool": {
            **asdict(spec),
            "num_running": found.num_running,
            "num_starting": found.num_starting,
            "endpoints": names,
        }
    }
