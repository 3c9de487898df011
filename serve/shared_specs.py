"""The specifications of the endpoints that the shared pool answers for, in the cluster's key-value store.

A Serve application of its own would cost each of them a second to deploy and a share of Serve's control loop for ever.
Serve keeps its own state in the same store, so neither outlives the other. Ray must be initialised.
"""

import json
from typing import Any
from uuid import uuid4

from ray.experimental import internal_kv

from serve.endpoints import EndpointSpec

NAMESPACE = b"tuneserve"
PREFIX = b"endpoints/"
CHANGED = b"endpoints-changed"
"""Holds another value after each change, so that who looks every second reads one key and not hundreds."""


def put(name: str, spec: EndpointSpec) -> None:
    """Adds or replaces the specification of `name`."""
    value = json.dumps(spec.as_user_config()).encode()
    internal_kv._internal_kv_put(PREFIX + name.encode(), value, overwrite=True, namespace=NAMESPACE)
    _tell()


def remove(name: str) -> None:
    """Removes the specification of `name`, if there is one."""
    internal_kv._internal_kv_del(PREFIX + name.encode(), namespace=NAMESPACE)
    _tell()


def shared_specs() -> dict[str, EndpointSpec]:
    """All of them, by the endpoint's name. What another version of this code wrote and this cannot read is left out."""
    keys = internal_kv._internal_kv_list(PREFIX, namespace=NAMESPACE)
    if not keys:
        return {}
    client: Any = internal_kv.internal_kv_get_gcs_client()
    found = client.internal_kv_multi_get(keys, NAMESPACE)  # one that was removed meanwhile is not in it
    read = {key: EndpointSpec.from_user_config(json.loads(value)) for key, value in found.items()}
    return {key.removeprefix(PREFIX).decode(): spec for key, spec in read.items() if spec is not None}


class SharedSpecs:
    """The specifications as somebody sees them who looks often."""

    def __init__(self) -> None:
        self._change: bytes | None = None
        self._specs: dict[str, EndpointSpec] = {}

    def read(self) -> dict[str, EndpointSpec]:
        """All of them, by name, read anew only after a change."""
        change = internal_kv._internal_kv_get(CHANGED, namespace=NAMESPACE)
        if change != self._change:
            # What changes from here on is read again, because its mark comes after it.
            self._specs, self._change = shared_specs(), change
        return self._specs


def _tell() -> None:
    internal_kv._internal_kv_put(CHANGED, uuid4().bytes, overwrite=True, namespace=NAMESPACE)
