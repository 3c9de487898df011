"""The steps from the registry on: the local cluster, deploying, rolling back, what runs."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from common.api_keys import read_keys
from common.cloud_cluster import down_in_cloud, up_in_cloud
from common.cluster import ClusterRecord, connect, down, in_job, read_record, up, with_gateway
from common.cluster_record import only_one, recorded
from common.code_archive import code_archive
from common.errors import ClusterError, ServingError
from common.location import join
from common.owner import owner
from common.ray_head import is_free, is_head_alive, log_path
from common.registry import ModelRegistry
from common.storage import read_json
from scripts.canary import canary_line, canary_status_line
from scripts.display import say, step
from scripts.job import STARTED_FILE, Job, storage_location, stored_runs, tracking_location
from scripts.steps import Result
from serve.application import deploy_endpoint, endpoints, follow_alias, start_gateway
from serve.auth import is_loopback
from serve.canary_settings import CanarySettings
from serve.gateway_server import Tls

GATEWAY_HOST = "127.0.0.1"
GATEWAY_PORT = 8000
FOLLOW_TIMEOUT_S = 60.0
LOOK_EVERY_S = 1.0
"""How often a command that stays looks whether its cluster does."""


def deploy(job: Job, canary: CanarySettings | None = None) -> Result:
    """Serves the model that the recipe's alias points to; starts a cluster when none is up.

    With `canary`, a candidate stands beside it, which takes an endpoint that is there already.
    """
    recipe = job.recipe
    if canary is not None and not is_cluster_at_hand():
        raise ClusterError(
            f"no cluster is up, so there is no endpoint {recipe.name!r} for a candidate to stand beside; deploy the "
            "champion first: tuneserve deploy RECIPE"
        )
    ModelRegistry(job.tracking_uri).by_alias(recipe.registered_model, recipe.registry.alias)  # before a cluster starts
    with gateway_at_hand(job.storage, job.tracking_uri) as code_uri:
        step("Endpoint")
        deployed = deploy_endpoint(
            recipe, tracking_uri=job.tracking_uri, storage=job.storage, code_uri=code_uri, canary=canary
        )
    say(f"  {deployed.url}/classify answers with {deployed.model} version {deployed.version}")
    if recipe.serve.pool == "shared":
        say("  the shared pool holds its model from its first request on: see `tuneserve pool`")
    else:
        say(f"  replicas {recipe.serve.min_replicas} to {recipe.serve.max_replicas}; the first request wakes it")
    if deployed.ended_canary is not None:
        say(f"  the comparison with version {deployed.ended_canary} has ended with this deployment, undecided")
    result = {"url": deployed.url, "model": deployed.model, "version": deployed.version}
    if canary is None:
        return result
    say(f"  {canary_line(canary)}")
    return {**result, "canary": asdict(canary)}


def start_cluster(
    cluster_yaml: str | None = None,
    *,
    storage: str | None = None,
    mlflow_uri: str | None = None,
    num_cpus: int | None = None,
    host: str | None = None,
    port: int | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    block: bool = False,
) -> Result:
    """Starts a local cluster with its gateway, or hands a cluster configuration to `ray up`.

    With `block` it returns when the local cluster ends, and ends it when it is interrupted: what containers and systemd
    expect of a service.
    """
    if cluster_yaml and block:
        raise ClusterError(f"--block: the cluster of {cluster_yaml} does not end with this command; leave it out")
    if cluster_yaml:
        up_in_cloud(Path(cluster_yaml))
        say("The cluster is up. Run commands on it as jobs: tuneserve submit --address URL -- run RECIPE")
        return {"cluster": cluster_yaml}
    place = storage_location(storage)
    tracking_uri = tracking_location(mlflow_uri, place)
    tls = _tls(tls_cert, tls_key)
    running = read_record()
    if running is not None and running.gateway_url and (host or tls):
        raise ClusterError(
            f"a gateway listens on {running.gateway_url} already, and is not moved; end its cluster with "
            "`tuneserve down`, then start it as you want it"
        )
    host, port = host or GATEWAY_HOST, port or GATEWAY_PORT
    record = up_gateway(place, tracking_uri, num_cpus=num_cpus, gateway_host=host, gateway_port=port, tls=tls)
    _say_who_may_ask(host, tls)
    say(f"The cluster is up: gateway {record.gateway_url}, dashboard {record.dashboard_url}, storage {record.storage}")
    say("It ends with this command: Ctrl-C" if block else "End it with: tuneserve down")
    if block:
        _stay_until_it_ends(record)
    return {"cluster": asdict(record)}


def _stay_until_it_ends(record: ClusterRecord) -> None:
    """Returns after `tuneserve down`. Raises `ServingError` when the cluster ends otherwise; interrupted, ends it."""
    try:
        while is_head_alive(record.pid, record.cluster_id):
            time.sleep(LOOK_EVERY_S)
        with only_one():  # `down` forgets the record last
            left = recorded()
    except KeyboardInterrupt:
        down()
        raise
    if left is not None and left.cluster_id == record.cluster_id:
        down()
        raise ServingError(f"the cluster has ended by itself; its log is {log_path()}")


def _tls(certificate: str | None, key: str | None) -> Tls | None:
    if not (certificate and key):
        if certificate or key:
            raise ClusterError("--tls-cert and --tls-key belong together; give both or neither")
        return None
    return Tls(Path(certificate).expanduser().absolute(), Path(key).expanduser().absolute())


def _say_who_may_ask(host: str, tls: Tls | None) -> None:
    if is_loopback(host):
        return
    if not any(not key.has_expired for key in read_keys()):
        say("The gateway refuses every request until there is an API key: tuneserve keys create NAME")
    if tls is None:
        say("Without --tls-cert and --tls-key, API keys and texts cross the network as they are: see docs/operating.md")


def end_cluster(cluster_yaml: str | None = None) -> Result:
    """Ends the local cluster and everything on it, or hands a cluster configuration to `ray down`."""
    if cluster_yaml:
        down_in_cloud(Path(cluster_yaml))
        return {"ended": True}
    ended = down()
    say("The local cluster has ended." if ended else "No local cluster was up.")
    return {"ended": ended}


def up_gateway(
    storage: str,
    tracking_uri: str,
    *,
    num_cpus: int | None = None,
    gateway_host: str = GATEWAY_HOST,
    gateway_port: int = GATEWAY_PORT,
    tls: Tls | None = None,
) -> ClusterRecord:
    """The local cluster with its gateway; both are started when they are not there.

    Raises:
        ClusterError: when the gateway's port is taken or `tls` is no certificate, before anything is started.
    """
    record = read_record()
    if record is None:
        if not is_free(gateway_port):
            raise ClusterError(
                f"port {gateway_port} is taken; end what listens there, or choose one: tuneserve up --port"
            )
        if tls:
            tls.check()
        step("Starting a local cluster")
        record = up(storage=storage, tracking_uri=tracking_uri, num_cpus=num_cpus)
        say(f"  Ray at {record.address}, dashboard {record.dashboard_url}")
    if record.gateway_url is None:
        with connect(private=False):
            record = with_gateway(record, start_gateway(gateway_host, gateway_port, tls=tls))
        say(f"  gateway at {record.gateway_url}")
    return record


@contextmanager
def gateway_at_hand(storage: str, tracking_uri: str) -> Iterator[str | None]:
    """Connected to a cluster whose gateway runs; yields where replicas get their code, None for the installed one.

    A Ray job, and a driver that RAY_ADDRESS sends elsewhere, use the cluster they are on; others start the local one.
    """
    record = read_record()
    elsewhere = os.environ.get("RAY_ADDRESS") not in (None, "", record and record.address)
    if not in_job() and not elsewhere:
        up_gateway(storage, tracking_uri)
        with connect(private=False):
            yield None
        return
    code_uri = code_archive(storage)
    with connect(private=False):
        start_gateway(GATEWAY_HOST, GATEWAY_PORT, code_uri=code_uri)
        yield code_uri


def roll_back(
    name: str, *, alias: str = "champion", storage: str | None = None, mlflow_uri: str | None = None
) -> Result:
    """Moves a model's alias back to the version before, and waits until the endpoints that follow it do."""
    tracking_uri = tracking_location(mlflow_uri, storage_location(storage))
    before, after = ModelRegistry(tracking_uri).rollback(name, alias)
    say(f"{name}@{alias}: version {before} -> {after}")
    if is_cluster_at_hand():
        with connect(private=False):
            for endpoint in endpoints():
                if (endpoint.model, endpoint.alias, endpoint.tracking_uri) == (name, alias, tracking_uri):
                    follow_alias(endpoint.name, after, timeout_s=FOLLOW_TIMEOUT_S)
                    say(f"{endpoint.url} answers with version {after}")
    return {"model": name, "alias": alias, "from": before, "version": after}


def status(*, storage: str | None = None, everyone: bool = False) -> Result:
    """The cluster, this user's sweeps and trainings in the storage, or `everyone`'s, and the endpoints.

    Runs that do not say whose they are, from before that was noted, are everybody's.
    """
    place = storage_location(storage)
    record = read_record()
    found = _runs(place)
    runs = [entry for entry in found if everyone or entry["owner"] in (None, owner())]
    running: list[Result] = []
    if is_cluster_at_hand():
        with connect(private=False):
            running = [asdict(endpoint) for endpoint in endpoints()]
    say(f"cluster   {record.address}, dashboard {record.dashboard_url}" if record else "cluster   none is up")
    for endpoint in running:
        version = endpoint["version"] or "?"
        whose = " of the shared pool" if endpoint["pool"] == "shared" else ""
        replicas = f"{endpoint['replicas']} replicas{whose}"
        say(f"endpoint  {endpoint['url']}  version {version}  {endpoint['state']}, {replicas}")
        if endpoint["canary"] is not None:
            say(f"          {canary_status_line(endpoint['canary'])}")
    for entry in runs:
        metrics = entry["metrics"] or {}
        shown = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("accuracy", "macro_f1") if name in metrics)
        whose = f"  of {entry['owner']}" if entry["owner"] not in (None, owner()) else ""
        say(f"run       {entry['id']}  {entry['state']}{whose}  {shown}".rstrip())
    if len(runs) < len(found):
        say(f"          {len(found) - len(runs)} of others: tuneserve status --all")
    return {"cluster": asdict(record) if record else None, "sweeps": runs, "endpoints": running}


def is_cluster_at_hand() -> bool:
    """Whether there is a cluster to ask: the local one, a job's own, or the one that RAY_ADDRESS names."""
    return read_record() is not None or in_job() or os.environ.get("RAY_ADDRESS") not in (None, "", "local")


def _runs(storage: str) -> list[Result]:
    rows: list[Result] = []
    for run, result in stored_runs(storage):
        best = result["best"]["metrics"] if result else None
        started = read_json(join(storage, "runs", run, STARTED_FILE)) or {}
        rows.append(
            {
                "id": run,
                "state": "finished" if result else "unfinished",
                "metrics": best,
                "owner": started.get("owner"),
            }
        )
    return rows
