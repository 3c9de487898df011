"""What a command's arguments name on this machine, made readable for a job on another.

On the cluster of this machine a path becomes absolute. For a cluster elsewhere the recipe travels with the code, other
small files are copied to `storage`, and what cannot be copied is refused by name.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from common.code_archive import put
from common.databricks import DATABRICKS
from common.errors import InputError
from common.location import is_url, join
from common.recipe import Recipe
from common.recipe_file import is_override, load_recipe

PATH_OPTIONS = ("--file", "--out")
"""Options whose value is a path; `--storage` and `--mlflow-uri` are settled before."""

MAX_UPLOAD_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Destination:
    """Where a job will run and what it shares with this machine."""

    address: str
    """Of the Jobs API."""
    storage: str | None
    """Folder or URL that both reach; None when only the cluster knows."""
    is_local: bool
    """Whether the cluster's head is on this machine: a job finds the same files there."""


def require_shared(destination: Destination, tracking_uri: str | None) -> None:
    """Checks that the job will find the same storage and tracking, and that neither gives a password away.

    Raises:
        InputError: A place is on this machine's disk only, or carries a password.
    """
    for name, place in (("storage", destination.storage), ("the tracking URI", tracking_uri)):
        if place and urlsplit(place).password:
            raise InputError(
                f"{name} holds a password, which everybody who sees the cluster's jobs would read; "
                "give it to the cluster's environment instead"
            )
    if destination.is_local:
        return
    if destination.storage and (not is_url(destination.storage) or destination.storage.startswith("file:")):
        raise InputError(
            f"storage {destination.storage} is a folder of this machine, which the cluster at {destination.address} "
            "does not see; give --storage a URL such as s3://bucket/folder"
        )
    is_file = tracking_uri and (not is_url(tracking_uri) or tracking_uri.startswith(("sqlite:", "file:")))
    if is_file and tracking_uri != DATABRICKS:
        raise InputError(
            f"the tracking URI {tracking_uri} is a file of this machine, which the cluster at {destination.address} "
            "does not see; give --mlflow-uri the address of an MLflow server"
        )


@dataclass(frozen=True)
class Carried:
    """A command as the job is to get it."""

    arguments: list[str]
    files: dict[str, bytes]
    """What the job finds in its working directory beside the code, by relative path."""


def portable(arguments: Sequence[str], destination: Destination, tracking_uri: str | None = None) -> Carried:
    """A command whose arguments mean the same for the job as they do here.

    Where the destination or `tracking_uri` leave a place open, what the recipe says of it must be one that is shared.

    Raises:
        InputError: A path cannot be read on the cluster, or is too large to copy.
        RecipeError: The recipe is wrong, which the job would only find out later.
    """
    overrides = [argument for argument in arguments if is_override(argument)]
    recipes = [a for a in arguments[1:] if a.endswith((".yaml", ".yml")) and a not in overrides]
    recipe = recipes[0] if recipes else None
    settings = load_recipe(recipe, overrides) if recipe else None
    if destination.is_local or recipe is None or settings is None:
        return Carried([arguments[0], *_all_portable(arguments, destination)], {})
    of_recipe = replace(destination, storage=None if destination.storage else settings.storage)
    require_shared(of_recipe, None if tracking_uri else settings.tracking.mlflow_uri)
    inside = f"inputs/{Path(recipe).name}"
    without_recipe = ["" if argument == recipe else argument for argument in arguments]
    moved = [argument or inside for argument in _all_portable(without_recipe, destination)]
    given = {override.partition("=")[0] for override in overrides}
    replaced = [override for override in _inputs(settings, destination) if override.partition("=")[0] not in given]
    return Carried([arguments[0], *moved, *replaced], {inside: Path(recipe).read_bytes()})


def _all_portable(arguments: Sequence[str], destination: Destination) -> list[str]:
    return [_portable(argument, before, destination) for before, argument in itertools.pairwise(arguments)]


def _portable(argument: str, before: str, destination: Destination) -> str:
    option, equals, value = argument.partition("=")
    if before in PATH_OPTIONS or (equals and option in PATH_OPTIONS):
        path = argument if before in PATH_OPTIONS else value
        placed = _placed_output(path, destination) if "--out" in (before, option) else _placed(path, destination)
        return placed if before in PATH_OPTIONS else f"{option}={placed}"
    if is_override(argument):
        return f"{option}={_placed(value, destination)}" if _found(value) else argument
    # Of the other arguments only files are meant as such: a folder may happen to be called like a model.
    found = _found(argument)
    return _placed(argument, destination) if found and found.is_file() else argument


def _found(text: str) -> Path | None:
    """The file or folder that a text names; most texts name none, and many could not."""
    try:
        path = Path(text).expanduser()
        return path if text and path.exists() else None
    except (OSError, RuntimeError):  # longer than a name may be; `~bob` without such a user
        return None


def _inputs(recipe: Recipe, destination: Destination) -> list[str]:
    """Overrides that replace the paths in a recipe, which are this machine's, by copies that the job can read."""
    if Path(recipe.model.base).is_absolute():
        raise _unreachable(recipe.model.base, destination, "name a model on the Hub, or a folder that the cluster has")
    named = {
        "data.source": recipe.data.source,
        "data.validation_source": recipe.data.validation_source,
        "data.test_source": recipe.data.test_source,
    }
    return [
        f"{key}={_placed(value, destination)}" for key, value in named.items() if value and Path(value).is_absolute()
    ]


def _placed(path: str, destination: Destination) -> str:
    """Where the job reads what this path names."""
    if is_url(path):
        return path
    local = _absolute(path)
    if destination.is_local:
        return str(local)
    if not local.exists():
        raise InputError(f"{path} does not exist")
    return _upload(local, destination)


def _placed_output(path: str, destination: Destination) -> str:
    if is_url(path):
        return path
    if destination.is_local:
        return str(_absolute(path))
    raise _unreachable(path, destination, "give --out a URL")


def _absolute(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise InputError(f"{path} is not a path of this machine: {error}") from error


def _upload(path: Path, destination: Destination) -> str:
    """Copies a file or a folder to `<storage>/inputs/<digest>/<name>` and returns its URI."""
    if destination.storage is None:
        raise _unreachable(
            str(path), destination, "to have it copied, name the cluster's storage with --storage or TUNESERVE_STORAGE"
        )
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    if (size := sum(file.stat().st_size for file in files)) > MAX_UPLOAD_BYTES:
        raise _unreachable(
            str(path), destination, f"its {size / 2**20:.0f} MiB are too much to copy: put it into the storage yourself"
        )
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(path.parent)).encode() + b"\0" + file.read_bytes())
    folder = join(destination.storage, "inputs", digest.hexdigest()[:16])
    for file in files:
        put(join(folder, file.relative_to(path.parent).as_posix()), file.read_bytes())
    return join(folder, path.name)


def _unreachable(path: str, destination: Destination, way_out: str) -> InputError:
    return InputError(f"{path} is on this machine, which the cluster at {destination.address} does not see; {way_out}")
