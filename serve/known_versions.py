"""What the registry said a moment ago, for a gateway that takes the place of one that was killed.

To ask the registry takes seconds, nearly all of them the import of MLflow, and the registry may be away just then.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from common.storage import write_bytes
from serve.batching import ServedVersion
from serve.endpoints import EndpointSpec

KNOWN_FOR_S = 60.0
"""What is older is not believed: the alias may have moved while nobody looked."""


class KnownVersions:
    """The versions that aliases point to, a small file each in `folder`, whose time is that of the registry's word."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self._noted: dict[Path, ServedVersion] = {}
        self._recalled: set[Path] = set()

    def note(self, spec: EndpointSpec, served: ServedVersion) -> None:
        """Takes over what the registry has just said. A disk that refuses costs a later gateway its head start only."""
        path = self._path(spec)
        with suppress(OSError):
            if self._noted.get(path) != served:
                write_bytes(str(path), json.dumps(asdict(served)).encode())
                self._noted[path] = served
            os.utime(path, (self._clock(),) * 2)

    def recall(self, spec: EndpointSpec) -> ServedVersion | None:
        """What the registry said last to a gateway before this one, unless that is long ago; told once for a model."""
        path = self._path(spec)
        if path in self._recalled or path in self._noted:
            return None
        self._recalled.add(path)
        try:
            if self._clock() - path.stat().st_mtime > KNOWN_FOR_S:
                return None
            return ServedVersion(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def _path(self, spec: EndpointSpec) -> Path:
        # Replicas on GPUs are given another folder of the same version.
        entry = json.dumps([spec.tracking_uri, spec.model, spec.alias, spec.storage, spec.num_gpus > 0])
        return self._folder / f"{hashlib.sha256(entry.encode()).hexdigest()[:16]}.json"
