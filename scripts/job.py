"""What a command works on: a recipe, the storage and the tracking server, and the runs that the storage holds."""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from common.cluster import in_job
from common.cluster_record import read_record
from common.databricks import refuse_unusable_names
from common.errors import InputError
from common.lease import lease
from common.location import is_url, join, refuse_unreachable
from common.owner import owner
from common.recipe import Recipe
from common.recipe_file import dump_recipe, load_recipe
from common.storage import folders_in, read_json, write_json

STARTED_FILE = "started.json"
"""In a run's folder: whose it is."""

_held: set[Path] = set()
"""Locks that this process holds: the steps of `run` take the lock of the whole again."""


def storage_location(option: str | None, recipe: Recipe | None = None) -> str:
    """Where state lives: the option, the recipe, TUNESERVE_STORAGE, the running cluster's, or `./outputs`; absolute.

    Raises:
        InputError: when a Ray job would be left with `./outputs`, which goes with the job.
    """
    record = read_record()
    given = option or (recipe and recipe.storage) or os.environ.get("TUNESERVE_STORAGE") or (record and record.storage)
    if given is None and in_job():
        raise InputError(
            "this job was given no storage, and its own folder goes when it ends; set TUNESERVE_STORAGE and "
            "MLFLOW_TRACKING_URI in the cluster's environment, or submit with --storage and --mlflow-uri"
        )
    location = given or "outputs"
    return location if is_url(location) else str(Path(location).expanduser().absolute())


def tracking_location(option: str | None, storage: str, recipe: Recipe | None = None) -> str:
    """The tracking URI: the option, the recipe, MLFLOW_TRACKING_URI, the running cluster's, or SQLite in `storage`."""
    from common.tracking import absolute, sqlite_uri

    record = read_record()
    named = option or (recipe and recipe.tracking.mlflow_uri) or os.environ.get("MLFLOW_TRACKING_URI")
    # The cluster's tracking goes with the cluster's storage: a user who names another storage wants another history.
    shared = record.tracking_uri if record and record.storage == storage else None
    return absolute(named) if named else shared or sqlite_uri(storage)


@dataclass(frozen=True)
class Job:
    """A recipe with its places settled."""

    recipe: Recipe
    storage: str
    tracking_uri: str

    @classmethod
    def load(
        cls,
        path: str | Path,
        overrides: Sequence[str] = (),
        storage: str | None = None,
        mlflow_uri: str | None = None,
    ) -> Self:
        """Reads the recipe, with `section.key=value` overrides, and settles where its state lives.

        Raises:
            RecipeError: when the recipe or an override is wrong.
            TrackingError: when the tracking server does not take the recipe's names.
        """
        recipe = load_recipe(path, overrides)
        place = storage_location(storage, recipe)
        tracking_uri = tracking_location(mlflow_uri, place, recipe)
        refuse_unusable_names(tracking_uri, recipe.experiment, recipe.registered_model)
        return cls(recipe, place, tracking_uri)

    @property
    def recipe_yaml(self) -> str:
        """The resolved recipe."""
        return dump_recipe(self.recipe)

    @property
    def runs(self) -> str:
        """The folder that holds a folder for each sweep and training."""
        return join(self.storage, "runs")

    def new_run(self, kind: str) -> str:
        """An id for a new sweep or training; they sort by time.

        Ids of one tracking server's users differ, though containers give their processes the same numbers.
        """
        return f"{self.recipe.name}-{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"

    def note_start(self, run: str, **facts: str) -> None:
        """Notes in a run's folder whose it is, and `facts`; a run that is continued stays whose it was."""
        path = join(self.runs, run, STARTED_FILE)
        if read_json(path) is None:
            write_json(path, {**facts, "owner": owner()})

    def sweep_key(self, data_digest: str) -> str:
        """Changes with what a sweep's trials depend on; more trials, more time or other nodes are no other sweep."""
        parts = ("name", "data", "model", "train")
        search = dict.fromkeys(("space", "metric", "scheduler", "seed", "warm_start"), True)
        decisive = self.recipe.model_dump_json(
            include={**dict.fromkeys(parts, True), "search": search},
            exclude={"train": {"placement", "logging_steps"}, "data": {"sha256"}},
        )
        return hashlib.sha256(f"{decisive}{data_digest}{self.tracking_uri}".encode()).hexdigest()[:16]

    def promotion_key(self, run: Mapping[str, Any]) -> str:
        """Changes with the winner, and with how it is judged and registered."""
        judged_by = self.recipe.registry.model_dump_json()
        return hashlib.sha256(f"{judged_by}{run['best']['run_id']}".encode()).hexdigest()[:16]

    def finished_runs(self) -> list[dict[str, Any]]:
        """Results of this recipe's finished sweeps and trainings, oldest first."""
        results = [result for _, result in stored_runs(self.storage) if result and result["name"] == self.recipe.name]
        return sorted(results, key=lambda result: result["finished_at"])

    def interrupted_sweep(self) -> str:
        """The id of this recipe's newest sweep without a result.

        Raises:
            InputError: when there is none.
        """
        prefix = f"{self.recipe.name}-sweep-"
        open_runs = [run for run, result in stored_runs(self.storage) if run.startswith(prefix) and result is None]
        if not open_runs:
            raise InputError(
                f"no interrupted sweep of {self.recipe.name!r} is in {self.runs}; start one without --resume, or name "
                "the storage it is in with --storage"
            )
        return open_runs[-1]

    def interrupted_training(self, key: str) -> str | None:
        """The id of this recipe's newest training that started with the same key and has no result."""
        prefix = f"{self.recipe.name}-train-"
        for run, result in reversed(stored_runs(self.storage)):
            started = read_json(join(self.runs, run, STARTED_FILE)) if run.startswith(prefix) else None
            if result is None and started and started["key"] == key:
                return str(run)
        return None

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Refuses a second process on the same recipe and storage while one is at work.

        Raises InputError as well when the storage cannot be reached: what comes after this is patient with it.
        """
        import fcntl

        path = Path(self.runs) / f".{self.recipe.name}.lock"
        if path in _held:
            yield
            return
        if is_url(self.storage):
            refuse_unreachable(self.storage)
            with lease(join(self.runs, path.name), f"{self.recipe.name!r} in {self.storage}"), _holding(path):
                yield
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    f"another command is at work on {self.recipe.name!r} in {self.storage}; wait for it, or choose "
                    "another name or --storage"
                ) from None
            with _holding(path):
                yield


@contextmanager
def _holding(path: Path) -> Iterator[None]:
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)


def stored_runs(storage: str) -> list[tuple[str, dict[str, Any] | None]]:
    """All sweeps and trainings in a storage, by id, each with its result; None for those that did not finish."""
    return [(run, read_json(join(storage, "runs", run, "result.json"))) for run in run_ids(storage)]


def run_ids(storage: str) -> list[str]:
    """The ids of all sweeps and trainings in a storage; those of one recipe and kind sort by time."""
    return folders_in(join(storage, "runs"))
