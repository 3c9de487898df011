"""What a run was made from, as tags of its MLflow run: the rows, where they came from, packages and resources."""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

DATA_TAG = "tuneserve.data_sha256"
"""The full digest of the rows (`Splits.digest`), on the runs of trials too."""

SOURCES_TAG = "tuneserve.data_versions"
"""JSON: by source, its version in DVC or on the Hub, where it has one."""

ENVIRONMENT_TAG = "tuneserve.environment"
"""JSON: `environment()`, on the run of a sweep or a training."""

RESOURCES_TAG = "tuneserve.resources"
"""JSON: what one training held, on the run of a sweep or a training; sums depend on its workers and threads."""

_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy", "pyarrow", "ray", "optuna", "mlflow")
_GIT_TIMEOUT_S = 5.0


@cache
def environment() -> dict[str, str]:
    """Versions of what decides how a training ends: Python, tuneserve (with its commit) and packages, by name."""
    found = {"python": platform.python_version(), "tuneserve": _own_version()}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def provenance_tags(
    data_digest: str, source_versions: Mapping[str, str], resources: Mapping[str, Any]
) -> dict[str, str]:
    """The tags of a sweep's or a training's run."""
    return {
        DATA_TAG: data_digest,
        **({SOURCES_TAG: json.dumps(dict(source_versions))} if source_versions else {}),
        ENVIRONMENT_TAG: json.dumps(environment()),
        RESOURCES_TAG: json.dumps(dict(resources)),
    }


def _own_version() -> str:
    """The package's version and, in a checkout, its commit, with `-dirty` when files differ from that."""
    root = Path(__file__).resolve().parent.parent
    try:
        version = importlib.metadata.version("tuneserve")
    except importlib.metadata.PackageNotFoundError:  # a job's upload
        version = "unknown"
    if not (root / ".git").exists():
        return version
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    with suppress(OSError, subprocess.SubprocessError):
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S)
        return f"{version}+{commit.stdout.strip()}"
    return version
