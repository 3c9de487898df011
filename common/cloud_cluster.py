"""A cluster on machines in a cloud, as a `cluster.yaml` describes it: `ray up` and `ray down`, with a token."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from common.errors import ClusterError

_PROVIDER_PACKAGES = {"aws": "boto3", "gcp": "googleapiclient", "azure": "azure.identity"}
_PLACEHOLDER = re.compile(r"YOUR-[A-Z-]*[A-Z]")
"""What the shipped files say where only the user knows: a bucket, an image, a machine."""

_RAY = (sys.executable, "-P", "-m", "ray.scripts.scripts")


def up_in_cloud(config: Path) -> None:
    """Starts the cluster of a `cluster.yaml`, or brings it up to date. What Ray does is printed as it goes.

    The user's Ray token (`~/.ray/auth_token`), which the file copies to the nodes, is made when there is none.

    Raises:
        ClusterError: The file cannot be read or still holds placeholders, the cloud's package is missing, or `ray up`
            failed.
    """
    document = _require_provider(config)
    if left := sorted(set(_PLACEHOLDER.findall(yaml.safe_dump(document)))):
        raise ClusterError(
            f"{config} still says {', '.join(left)}; write your own there, docs/clusters.md says how to get each"
        )
    subprocess.run([*_RAY, "get-auth-token", "--generate"], check=True, capture_output=True)
    _ray("up", config)


def down_in_cloud(config: Path) -> None:
    """Terminates the machines of a cluster, and waits for that.

    Raises:
        ClusterError: The file cannot be read, the cloud's package is missing, or `ray down` failed.
    """
    _require_provider(config)
    _ray("down", config)


def _ray(verb: str, config: Path) -> None:
    # The file's `file_mounts` are relative to the current folder.
    done = subprocess.run([*_RAY, verb, "--yes", config.absolute()], cwd=config.absolute().parent, check=False)
    if done.returncode != 0:
        raise ClusterError(f"`ray {verb} {config}` failed with exit code {done.returncode}; what it said stands above")


def _require_provider(config: Path) -> Any:
    """The file's content, once it is known that Ray can talk to its provider."""
    try:
        document: Any = yaml.safe_load(config.read_text("utf-8"))
        provider = document["provider"]["type"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ClusterError(f"{config} is not a cluster.yaml that Ray can start: {error!r}") from error
    package = _PROVIDER_PACKAGES.get(provider)
    if package and importlib.util.find_spec(package.partition(".")[0]) is None:
        raise ClusterError(f"a cluster on {provider} needs the package {package}: pip install {package}")
    return document
