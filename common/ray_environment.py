"""What every process that talks to Ray needs in its environment: the token, the network it uses, less noise.

Ray reads its authentication from environment variables and caches it, and decides at import whether "this machine"
means the loopback address. Both are set here, for as long as they are needed, so that nobody else has to know.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray._private.ray_constants as ray_constants
from ray._private.authentication_test_utils import reset_auth_token_state

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds `common`, `tune`, `serve` and `scripts`: in a submitted job, the job's own copy."""

LOOPBACK_VARIABLE = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
"""At "0" a Ray node knows itself as 127.0.0.1 and listens there alone; Ray's own default on macOS and Windows."""

QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DEDUP_LOGS": "1"}
"""Settings that take Ray's notes to developers out of people's output."""

WAIT_POLICY = "OMP_WAIT_POLICY"
"""How torch's threads wait for each other. By default they spin, which keeps the one that is waited for from its core
when anything else runs: one busy process on two cores then slows a training down eight times, instead of 1.6."""


def home() -> Path:
    """The folder of the cluster record and the token: TUNESERVE_HOME, or `~/.tuneserve`; made when missing."""
    folder = Path(os.environ.get("TUNESERVE_HOME") or Path.home() / ".tuneserve").absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def token_path() -> Path:
    """The file with the token of the clusters started here; written, readable by its owner alone, when missing."""
    path = home() / "ray_token"
    if not path.exists():
        draft = path.with_name(f"ray_token.{os.getpid()}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        try:
            # A link, not a rename: of two processes that get here at once the first one's token stays.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path


def own_cluster_environment() -> dict[str, str]:
    """The variables with which a process starts or joins a cluster of ours: our token, on loopback."""
    return {
        **QUIET,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path()),
        LOOPBACK_VARIABLE: "0",
        WAIT_POLICY: os.environ.get(WAIT_POLICY, "passive"),
    }


def other_cluster_environment() -> dict[str, str]:
    """The variables for a cluster that somebody else started.

    The user's own Ray token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or `~/.ray/auth_token`) is used when there is one.
    Ray does so by itself only for clusters that it finds, not for those that it is told.
    """
    if "RAY_AUTH_MODE" in os.environ or not _users_token_exists():
        return QUIET
    return {**QUIET, "RAY_AUTH_MODE": "token"}


def _users_token_exists() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(path).is_file() if path else (Path.home() / ".ray" / "auth_token").is_file()


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets `variables` and makes Ray read them again; puts everything back at the end."""
    changed = dict(variables)
    hidden = ["RAY_AUTH_TOKEN"] if "RAY_AUTH_TOKEN_PATH" in changed else []  # it would win over the file
    before = {name: os.environ.get(name) for name in [*changed, *hidden]}
    loopback_before = ray_constants.ENABLE_RAY_CLUSTER
    for name in hidden:
        os.environ.pop(name, None)
    os.environ.update(changed)
    if LOOPBACK_VARIABLE in changed:
        ray_constants.ENABLE_RAY_CLUSTER = changed[LOOPBACK_VARIABLE] != "0"
    reset_auth_token_state()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        ray_constants.ENABLE_RAY_CLUSTER = loopback_before
        reset_auth_token_state()
