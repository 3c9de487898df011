"""The Ray cluster that commands work on: one that was started with `up`, one that is named, or a private one."""

import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from common.cluster_record import ClusterRecord, forget_record, only_one, read_record, recorded, write_record
from common.errors import ClusterError
from common.machines import Node, Resources, as_node, bootstrap_config, startable, this_machine
from common.ray_environment import (
    PROJECT_ROOT,
    environment,
    other_cluster_environment,
    own_cluster_environment,
    token_path,
)
from common.ray_head import LOOPBACK, end_head, free_port, is_free, start_head

__all__ = [
    "PROJECT_ROOT",
    "ClusterRecord",
    "Connection",
    "Node",
    "Resources",
    "connect",
    "down",
    "in_job",
    "offers",
    "read_record",
    "resources",
    "this_machine",
    "token_path",
    "up",
    "with_gateway",
]

DEFAULT_DASHBOARD_PORT = 8265
PROBE_TIMEOUT_S = 5.0

HEAD_RESOURCE = "node:__internal_head__"
"""What Ray marks the head with."""


@dataclass(frozen=True)
class Connection:
    """A cluster that this process is a driver of."""

    address: str
    """Of Ray's control store, `HOST:PORT`."""
    record: ClusterRecord | None
    """What `up` noted, when this is the cluster it started."""
    is_private: bool
    """Whether the cluster was started for this process alone and ends with it."""


_connection: Connection | None = None
"""The connection that `connect` made in this process; Ray allows one."""


def up(
    *,
    storage: str,
    tracking_uri: str,
    num_cpus: int | None = None,
    port: int = 0,
    dashboard_port: int | None = None,
) -> ClusterRecord:
    """Starts a local cluster that outlives this process, or finds the one that is up.

    It listens on loopback alone and asks for a token, which `connect` and `common.jobs` present by themselves. Of two
    processes that call this at once, one starts the cluster and the other returns its record.

    Args:
        storage: Folder or URL that commands on this cluster use when they are given none.
        tracking_uri: MLflow tracking URI, likewise.
        num_cpus: CPUs to offer; None offers all that the machine has.
        port: Of Ray's control store; 0 takes a free one.
        dashboard_port: Of the dashboard and the Jobs API; None takes 8265, or a free one when that is taken.

    Returns:
        The record of the cluster, without a gateway when it has just been started.

    Raises:
        ClusterError: A given port is taken, or Ray did not start.
    """
    with only_one():
        if (record := read_record()) is not None:
            return record
        _end_recorded()
        for taken in (given for given in (port, dashboard_port) if given and not is_free(given)):
            raise ClusterError(f"port {taken} is taken; stop what listens there or give another port")
        cluster_id = uuid.uuid4().hex
        head = start_head(cluster_id, num_cpus=num_cpus, port=port, dashboard_port=dashboard_port or _dashboard_port())
        record = ClusterRecord(
            address=head.address,
            dashboard_url=f"http://{LOOPBACK}:{head.dashboard_port}",
            gateway_url=None,
            storage=storage if "://" in storage else str(Path(storage).absolute()),
            tracking_uri=tracking_uri,
            pid=head.pid,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            cluster_id=cluster_id,
        )
        write_record(record)
        return record


def with_gateway(record: ClusterRecord, gateway_url: str) -> ClusterRecord:
    """Notes in the record of the cluster that is up where its gateway listens, and returns the new record."""
    changed = replace(record, gateway_url=gateway_url)
    with only_one():
        write_record(changed)
    return changed


def down() -> bool:
    """Ends the cluster that `up` started, with all its processes, and nothing else.

    Returns:
        Whether there was anything to end.

    Raises:
        ClusterError: Some process would not end.
    """
    with only_one():
        return _end_recorded()


def _end_recorded() -> bool:
    record = recorded()
    ended = record is not None and end_head(record.pid, record.cluster_id) > 0
    forget_record()
    return ended


def _dashboard_port() -> int:
    return DEFAULT_DASHBOARD_PORT if is_free(DEFAULT_DASHBOARD_PORT) else free_port()


@contextmanager
def connect(*, private: bool = True, num_cpus: int | None = None) -> Iterator[Connection]:
    """Makes this process a driver of a cluster: the one it is connected to already, the one of the Ray job that it is,
    the one that RAY_ADDRESS names, the one that is up, or a private one, in this order.

    The connection is closed at the end, and a private cluster ended, unless an outer `connect` or the caller's own
    `ray.init` made it. Workers' output stays in Ray's log files.

    Args:
        private: Whether to start a private cluster when there is no other.
        num_cpus: CPUs that a private cluster offers; None offers all that the machine has.

    Raises:
        ClusterError: There is no cluster and `private` is off, or the cluster does not answer or refuses.
    """
    global _connection
    if ray.is_initialized():
        yield _connection or Connection(ray.get_runtime_context().gcs_address, None, is_private=False)
        return
    address, record = _target()
    if address is None and not private:
        raise ClusterError("no cluster is up; start one with `tuneserve up`, or name one with RAY_ADDRESS")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with environment(other_cluster_environment() if address and not record else own_cluster_environment()):
        _join(address, num_cpus)
        _connection = Connection(ray.get_runtime_context().gcs_address, record, is_private=address is None)
        try:
            yield _connection
        finally:
            _connection = None
            ray.shutdown()
            _handle_sigterm_by(on_sigterm)  # Ray's end leaves the signal with nobody


def in_job() -> bool:
    """Whether this process is, or was started by, the entry point of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def resources() -> Resources:
    """What the cluster that this process is connected to has now, or will have when its autoscaler is asked for it."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    running = [as_node(offer) for offer in alive]
    if _is_local():
        return Resources(tuple(running))
    workers = [as_node(offer) for offer in alive if HEAD_RESOURCE not in offer]
    return Resources((*running, *startable(workers, bootstrap_config())))


def offers(resource: str) -> bool:
    """Whether a machine of the cluster that this process is connected to has some of a custom resource, or one would
    that its autoscaler may start."""
    if any(node["Resources"].get(resource) for node in ray.nodes() if node["Alive"]):
        return True
    kinds = {} if _is_local() else bootstrap_config().get("available_node_types", {})
    return any((kind.get("resources") or {}).get(resource) and kind.get("max_workers", 1) for kind in kinds.values())


def _is_local() -> bool:
    """Whether the cluster is one without an autoscaler, even when this machine is the head of another."""
    return _connection is not None and (_connection.is_private or _connection.record is not None)


def _target() -> tuple[str | None, ClusterRecord | None]:
    """The address to join, None for a private cluster, and the record when it is that cluster's.

    A Ray job finds its cluster's address in RAY_ADDRESS as well.
    """
    address = os.environ.get("RAY_ADDRESS") or None
    if address == "local":
        return None, None
    if address is not None and "://" in address:
        raise ClusterError(
            f"RAY_ADDRESS={address} is not the address of a control store (HOST:PORT), which a driver needs; "
            f"to run on that cluster: tuneserve submit --address {address} -- COMMAND"
        )
    # In a job the record may be another cluster's, as long as the address is not the same.
    record = read_record()
    if address is None:
        return (record.address, record) if record else (None, None)
    return address, record if record and record.address == address else None


def _join(address: str | None, num_cpus: int | None) -> None:
    if address is not None and address != "auto":
        _probe(address)
    # Ray puts the current folder first on every worker's path: a user's `tune.py` there would hide ours.
    before = os.getcwd()
    os.chdir(PROJECT_ROOT)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        # Ray refuses these two for a cluster that runs already.
        own: dict[str, Any] = {} if address else {"num_cpus": num_cpus, "include_dashboard": False}
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        raise ClusterError(f"cannot join the Ray cluster at {address or 'this machine'}: {error}") from error
    finally:
        os.chdir(before)
        _handle_sigterm_by(on_sigterm)  # Ray's own handler would abort a driver with a stack trace


def _handle_sigterm_by(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _probe(address: str) -> None:
    """Finds out in seconds what Ray would find out in minutes: that nobody answers."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"no Ray cluster answers at {address} ({error}); correct or unset RAY_ADDRESS") from error
