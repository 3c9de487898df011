"""The note that `tuneserve up` leaves for later commands: where the cluster is and what belongs to it."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from common.ray_environment import home
from common.ray_head import is_head_alive

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterRecord:
    """A local cluster that lives on after the command that started it."""

    address: str
    """Of Ray's control store, `127.0.0.1:PORT`: what `ray.init` takes."""
    dashboard_url: str
    """Of the dashboard and the Jobs API."""
    gateway_url: str | None
    """Of the endpoints' gateway, once it is started."""
    storage: str
    """Folder or URL for prepared data, checkpoints and results."""
    tracking_uri: str
    """MLflow tracking URI."""
    pid: int
    """Of the head process."""
    started_at: str
    """ISO 8601 time, UTC."""
    cluster_id: str
    """Stands in the environment of all its processes: tells them from others that were given the same pid later."""


def read_record() -> ClusterRecord | None:
    """The cluster that is up, or None: also when the recorded head has ended without `tuneserve down`."""
    record = recorded()
    if record is None or is_head_alive(record.pid, record.cluster_id):
        return record
    logger.warning(
        "the cluster that was started at %s (process %d) has ended by itself; "
        "`tuneserve up` starts a new one, `tuneserve down` forgets it",
        record.started_at,
        record.pid,
    )
    return None


def recorded() -> ClusterRecord | None:
    """What the record says, whether the cluster still lives or not; None when there is no readable record."""
    try:
        return ClusterRecord(**json.loads(_path().read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        logger.warning("%s is not a cluster record and is ignored", _path())
        return None


def write_record(record: ClusterRecord) -> None:
    """Puts the record in place at once, readable by its owner alone."""
    draft = _path().with_name(f"cluster.{os.getpid()}.json")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(record), file, indent=2)
    draft.replace(_path())


def forget_record() -> None:
    """Removes the record, if there is one."""
    _path().unlink(missing_ok=True)


@contextmanager
def only_one() -> Iterator[None]:
    """Waits until no other process starts or ends the cluster."""
    with (home() / "cluster.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _path() -> Path:
    return home() / "cluster.json"
