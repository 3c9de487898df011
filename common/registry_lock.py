"""One process at a time moves a model's aliases, whatever machine and storage it works from.

MLflow moves an alias without asking where it was. What it does refuse, in its database, is a second registered model of
one name: so the lock is a registered model of its own, there for as long as an alias moves, a second or so. It lies
where all who move the alias look; a lock in a storage would be seen by those alone who share that.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from common.lease import has_ended, this_process

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

LAPSES_AFTER_S = 60.0
"""A holder that is seen for so long has died. Of one on this machine that is known at once."""

LOOK_INTERVAL_S = 0.2

_HOLDER = "tuneserve.holder"
"""The tag that says who holds the lock."""

_UNKNOWN = {"id": "", "host": "", "pid": 0, "started": None}
"""Of a lock without that tag: one that is being removed loses it before it is gone, since MLflow reads them apart."""

_GONE = ("RESOURCE_DOES_NOT_EXIST",)


@contextmanager
def registry_lock(client: "MlflowClient", model: str, lock: str) -> Iterator[None]:
    """Holds the lock on the aliases of `model` while the block runs; waits while another process, or thread, has it.

    `lock` is the name of the registered model that is the lock.

    Raises `MlflowException` when the registry does not answer or refuses.
    """
    ours = this_process()
    seen_id, seen_since = "", time.monotonic()
    while not _create(client, lock, ours, model):
        holder = _holder(client, lock)
        if holder is None:
            continue
        if holder["id"] == ours["id"]:  # it was created, and the answer to that was lost
            break
        if holder["id"] != seen_id:
            seen_id, seen_since = holder["id"], time.monotonic()
        if has_ended(holder) or time.monotonic() - seen_since > LAPSES_AFTER_S:
            logger.warning("process %s on %s died while it moved an alias of %s", holder["pid"], holder["host"], model)
            _remove(client, lock, holder)
        else:
            time.sleep(LOOK_INTERVAL_S)
    try:
        yield
    finally:
        _remove(client, lock, ours)


def _create(client: "MlflowClient", lock: str, ours: dict[str, Any], model: str) -> bool:
    """Whether the lock was free and is ours now."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            lock, {_HOLDER: json.dumps(ours)}, f"An alias of {model} is being moved. Goes by itself."
        )
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", *_GONE):  # MLflow looks for the one that is in the way
            raise
        return False
    return True


def _holder(client: "MlflowClient", lock: str) -> dict[str, Any] | None:
    """The process that has the lock; None when it is free by now."""
    from mlflow.exceptions import MlflowException

    try:
        said = client.get_registered_model(lock).tags.get(_HOLDER)
    except MlflowException as error:
        if error.error_code not in _GONE:
            raise
        return None
    return cast(dict[str, Any], json.loads(said)) if said is not None else _UNKNOWN


def _remove(client: "MlflowClient", lock: str, holder: dict[str, Any]) -> None:
    """Frees the lock, unless another process has it by now."""
    from mlflow.exceptions import MlflowException

    try:
        if _holder(client, lock) == holder:
            client.delete_registered_model(lock)
    except MlflowException as error:
        if error.error_code not in _GONE:
            raise
