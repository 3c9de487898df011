"""Whose a sweep or a training is: who asked for it, on whatever machine it runs."""

import getpass
import json
import os

OWNER_VARIABLE = "TUNESERVE_OWNER"

OWNER_METADATA = "owner"
"""Of a submitted job: who submitted it."""


def owner() -> str:
    """TUNESERVE_OWNER, who submitted the Ray job that this process is, or the user; the user's number where it has no
    name, as in many containers."""
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    named = os.environ.get(OWNER_VARIABLE) or (config.get("metadata") or {}).get(OWNER_METADATA)
    if named:
        return str(named)
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # before and since Python 3.13
        return str(os.getuid())
