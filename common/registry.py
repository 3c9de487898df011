"""Registered models in MLflow: what an alias points to, where its files are, and moving it.

The registry is the only thing that tuning and serving share. A version's artifact folder holds a complete MLflow
transformers model, `onnx/` (what `common.classifier` loads), `recipe.yaml` and the model card.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import fs

from common.databricks import lock_name
from common.errors import RegistryError
from common.location import filesystem, join
from common.model_settings import ONNX_FOLDER, WEIGHTS_FOLDER
from common.registry_lock import registry_lock
from common.tracking import open_client, refusal, sqlite_file
from common.tracking_address import without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

CARD_FILE = "README.md"

CANDIDATE_ALIAS = "candidate"
"""The alias of the version that is to be tried beside the champion."""

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes for a missing model or version, and for a missing alias."""

_MAX_FILTER_CHARS = 2000
"""Of names in one search, which a tracking server gets as a part of its URL."""

_MAX_FOUND = 1000  # more than a search has names; MLflow allows no more

_COMPLETE = "COMPLETE"  # written last into a copied folder: object stores cannot rename one


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model; `uri` is its artifact folder."""

    name: str
    version: int
    uri: str
    run_id: str
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AliasTarget:
    """What an alias points to; `model_made_at` (milliseconds) tells a model from a later one of the same name."""

    version: int
    model_made_at: int


class ModelRegistry:
    """The registered models of one tracking server or database.

    Methods raise `RegistryError` for what is not there, and `TrackingError` when nothing answers.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri

    @cached_property
    def _client(self) -> "MlflowClient":
        """Opened when it is needed; a database that is not there is not made: nothing is registered in it."""
        database = sqlite_file(self.tracking_uri)
        if database is not None and not database.exists():
            raise RegistryError(
                f"nothing is registered: there is no database {database}; run `tuneserve run` (or `tuneserve promote`) "
                "first, or name the storage that holds it"
            )
        return open_client(self.tracking_uri)

    def by_alias(self, name: str, alias: str) -> ModelVersion:
        """The version that `alias` points to."""
        way_out = f"run `tuneserve promote` (or `tuneserve run`) with a recipe that registers {name!r}"
        with self._explained(f"no version of model {name!r} carries the alias {alias!r}", way_out):
            return self._version(self._client.get_model_version_by_alias(name, alias))

    def alias_targets(self, names: Collection[str]) -> dict[tuple[str, str], AliasTarget]:
        """What every alias of these models points to, by model and alias: one request for each hundred or so of them.

        A model that is not there, or whose name has both kinds of quotes, is left out.
        """
        found = {}
        with self._explained("the models cannot be searched", "see its models"):
            for search in _searches(names):
                for model in self._client.search_registered_models(search, max_results=_MAX_FOUND):
                    for alias, version in model.aliases.items():
                        found[model.name, alias] = AliasTarget(int(version), int(model.creation_timestamp))
        return found

    def by_version(self, name: str, version: int) -> ModelVersion:
        """That version."""
        with self._explained(f"model {name!r} has no version {version}", "see `tuneserve status` for what there is"):
            return self._version(self._client.get_model_version(name, str(version)))

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions, oldest first; empty when nothing is registered under that name."""
        with self._explained(f"the versions of model {name!r} cannot be listed", "check the name"):
            found: list[ModelVersion] = []
            token = None
            while True:
                page = self._client.search_model_versions(f"name = '{name}'", page_token=token)
                found += [self._version(version) for version in page]
                token = page.token
                if not token:
                    return sorted(found, key=lambda version: version.version)

    def set_alias(
        self, name: str, alias: str, version: int, *, only_while: tuple[str, int | None] | None = None
    ) -> bool:
        """Moves `alias` to `version`, which remembers what it replaced: `rollback` goes there.

        `only_while` is an alias and the version that it must still point to (None: no version); without it the alias
        moves in any case. Of several processes that move aliases of a model, one does so at a time.

        Returns:
            Whether `alias` points to `version` now.
        """
        with self._alone(name):
            replaced = self._pointed_to(name, alias)
            if replaced == version:
                return True
            if only_while is not None and self._pointed_to(name, only_while[0]) != only_while[1]:
                return False
            problem = f"the alias {alias!r} of {name!r} cannot move to version {version}"
            with self._explained(problem, "see its versions"):
                if replaced is not None:
                    self._client.set_model_version_tag(name, str(version), _replaced_tag(alias), str(replaced))
                self._client.set_registered_model_alias(name, alias, str(version))
        return True

    def drop_alias(self, name: str, alias: str, version: int) -> None:
        """Takes `alias` from `version`; nothing to do when another version carries it by now, or none."""
        if self._pointed_to(name, alias) != version:
            return
        with (
            self._alone(name),
            self._explained(f"the alias {alias!r} of {name!r} cannot be removed", "see its versions"),
        ):
            if self._pointed_to(name, alias) == version:
                self._client.delete_registered_model_alias(name, alias)

    def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Sets tags of a version; one that is there is replaced."""
        with self._explained(f"version {version} of {name!r} cannot be tagged", "see its versions"):
            for key, value in tags.items():
                self._client.set_model_version_tag(name, str(version), key, value)

    def rollback(self, name: str, alias: str) -> tuple[int, int]:
        """Moves `alias` back to the version that it pointed to before; returns (from, to)."""
        with self._alone(name):
            current = self.by_alias(name, alias)
            replaced = current.tags.get(_replaced_tag(alias))
            if replaced is None:
                raise RegistryError(
                    f"version {current.version} is the first that carried the alias {alias!r} of {name!r}: there is "
                    "none to go back to; promote another model instead"
                )
            target = self.by_version(name, int(replaced))
            problem = f"the alias {alias!r} of {name!r} cannot move to version {replaced}"
            with self._explained(problem, "see its versions"):
                self._client.set_registered_model_alias(name, alias, replaced)
        return current.version, target.version

    def download(self, version: ModelVersion, subfolder: str, destination: Path) -> Path:
        """Copies a folder of the version's artifacts (`""`: all) below `destination` and returns where it is now."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        what = f"{subfolder or 'the artifacts'} of {version.name!r} version {version.version} at {version.uri}"
        destination.mkdir(parents=True, exist_ok=True)
        with self._explained(f"cannot read {what}", "check that its artifact store is reachable"):
            repository = get_artifact_repository(version.uri, tracking_uri=self.tracking_uri)
            copied: str = repository.download_artifacts(subfolder, str(destination))  # type: ignore[no-untyped-call]
            return Path(copied)

    def card(self, version: ModelVersion) -> str | None:
        """The version's model card as it was written; None when it has none."""
        with TemporaryDirectory(prefix="tuneserve-") as folder:
            if CARD_FILE not in self._files(version):
                return None
            content = self.download(version, CARD_FILE, Path(folder)).read_bytes()
        return content.decode("utf-8", errors="replace")

    def _files(self, version: ModelVersion) -> set[str]:
        """The names of the files and folders among the version's artifacts."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with self._explained(f"cannot list {version.uri}", "check that its artifact store is reachable"):
            repository = get_artifact_repository(version.uri, tracking_uri=self.tracking_uri)
            return {found.path for found in repository.list_artifacts()}

    def fetchable_uri(self, version: ModelVersion, storage: str, *, with_weights: bool = False) -> str:
        """The `onnx` folder as a URI that `pyarrow.fs` opens; `with_weights` the weights beside it as well.

        Artifacts that only MLflow can read (its server proxies them) are copied to `storage`/served once.
        """
        uri = f"{version.uri.rstrip('/')}/{ONNX_FOLDER}"
        try:
            fs.FileSystem.from_uri(uri)
        except pa.ArrowInvalid:
            if with_weights:
                self._copy_to_storage(version, storage, WEIGHTS_FOLDER)
            return self._copy_to_storage(version, storage, ONNX_FOLDER)
        return uri

    def _copy_to_storage(self, version: ModelVersion, storage: str, subfolder: str) -> str:
        target_uri = join(storage, "served", version.name, str(version.version), subfolder)
        files, target = filesystem(target_uri)
        if files.get_file_info(f"{target}/{_COMPLETE}").type == fs.FileType.NotFound:
            with TemporaryDirectory() as folder:
                source = self.download(version, subfolder, Path(folder))
                files.create_dir(target)
                fs.copy_files(str(source), target, destination_filesystem=files)
            with files.open_output_stream(f"{target}/{_COMPLETE}"):
                pass
        return target_uri

    def _pointed_to(self, name: str, alias: str) -> int | None:
        """The version that the alias points to; None when there is none."""
        try:
            return self.by_alias(name, alias).version
        except RegistryError:
            return None

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """No other process moves an alias of the model meanwhile."""
        with (
            self._explained(f"the aliases of {name!r} cannot be locked", "the user must be allowed to create models"),
            registry_lock(self._client, name, lock_name(self.tracking_uri, name)),
        ):
            yield

    def _version(self, found: Any) -> ModelVersion:
        """The location is asked for: `source` may be an alias for another version's or a logged model's folder."""
        uri = self._client.get_model_version_download_uri(found.name, found.version)
        tags: Mapping[str, str] = found.tags
        return ModelVersion(found.name, int(found.version), uri, found.run_id or "", dict(tags))

    @contextmanager
    def _explained(self, problem: str, way_out: str) -> Iterator[None]:
        """Tells what is not there from a registry in trouble: the latter must never pass for an empty one."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            absent = isinstance(error, FileNotFoundError) or getattr(error, "error_code", None) in _ABSENT
            if not absent:
                raise refusal(self.tracking_uri, error) from error
            raise RegistryError(
                f"{problem} in {without_password(self.tracking_uri)} ({str(error).strip()}); {way_out}"
            ) from error


def _searches(names: Collection[str]) -> list[str]:
    """MLflow's filters that find these models between them; a name with both kinds of quotes cannot be said in one."""
    searches: list[str] = []
    listed = ""
    for name in sorted(name for name in names if not ("'" in name and '"' in name)):
        quoted = f'"{name}"' if "'" in name else f"'{name}'"
        if listed and len(listed) + len(quoted) > _MAX_FILTER_CHARS:
            searches.append(listed)
            listed = ""
        listed += f", {quoted}" if listed else quoted
    return [f"name IN ({listed})" for listed in [*searches, listed] if listed]


def _replaced_tag(alias: str) -> str:
    return f"tuneserve.replaced.{alias}"
