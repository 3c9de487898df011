"""Recording runs in MLflow: parameters, metrics by epoch, the data's digest and the recipe.

Everything goes through an explicit `MlflowClient`, never through MLflow's process-wide "active run": a driver, its Ray
actors and a notebook can record side by side. MLflow itself is imported when a tracker is opened, because that import
already sets up its telemetry and logging and takes a second.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from common.databricks import refuse_unusable_workspace, registry_of
from common.errors import TrackingError
from common.location import local_path
from common.owner import owner
from common.tracking_address import probe, refuse_password, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
_MAX_METRICS = 900  # in a request; MLflow takes 1,000 entries
_MAX_DIGEST_LENGTH = 36  # of MLflow's dataset table
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended."""


@dataclass(frozen=True)
class DatasetInput:
    """What a run was trained on, as MLflow shows it; `num_rows` is by split."""

    name: str
    digest: str
    source: str
    num_rows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricsAtStep:
    """Metrics of one step (an epoch, say) and when they were measured, in milliseconds since 1970."""

    values: Mapping[str, float]
    step: int
    measured_at_ms: int = field(default_factory=lambda: int(time.time() * 1000))


def sqlite_uri(storage: str) -> str:
    """The MLflow database in `storage`, as a tracking URI."""
    folder = local_path(storage)
    if folder is None:
        raise TrackingError(
            f"storage {storage} cannot hold an SQLite database, and no tracking server is named; set "
            "tracking.mlflow_uri in the recipe or the variable MLFLOW_TRACKING_URI"
        )
    return f"{_SQLITE}{folder.absolute() / 'mlflow.db'}"


def sqlite_file(uri: str) -> Path | None:
    """The database file of an SQLite tracking URI, else None."""
    return Path(uri.removeprefix(_SQLITE)).absolute() if uri.startswith(_SQLITE) else None


def absolute(uri: str) -> str:
    """A tracking URI that means the same from any folder: an SQLite database's path made absolute against this one."""
    path = uri.removeprefix(_SQLITE)
    if path == uri or not path or path.startswith(":"):  # a server, or `:memory:`
        return uri
    return f"{_SQLITE}{Path(path).absolute()}"


def open_client(uri: str) -> "MlflowClient":
    """A client for a tracking server or database that answers; a new SQLite database is migrated here, once.

    Raises `TrackingError` within seconds when nothing answers at `uri`.
    """
    refuse_password(uri)
    refuse_unusable_workspace(uri)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow
    from mlflow.telemetry import set_telemetry_client

    # Again: MLflow may have been imported before the settings above were made.
    set_telemetry_client()  # type: ignore[no-untyped-call]
    if "MLFLOW_LOGGING_LEVEL" in os.environ:
        logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
    probe(uri)
    with _explained(uri), _database_lock(uri):
        return mlflow.MlflowClient(uri, registry_uri=registry_of(uri))


class Tracker:
    """One MLflow experiment. `open` makes one."""

    def __init__(self, uri: str, client: "MlflowClient", experiment_id: str) -> None:
        self.uri = uri
        self.client = client
        self.experiment_id = experiment_id

    @classmethod
    def open(cls, uri: str, experiment: str) -> Self:
        """The experiment of that name at `uri`; made when it is new, with its artifacts beside an SQLite database.

        Raises `TrackingError` when nothing answers at `uri`, or when it refuses.
        """
        client = open_client(uri)
        with _explained(uri), _database_lock(uri):
            found = client.get_experiment_by_name(experiment)
            if found is None:
                artifacts = _artifact_location(uri, experiment)
                return cls(uri, client, client.create_experiment(experiment, artifact_location=artifacts))
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
            return cls(uri, client, found.experiment_id)

    def start(
        self,
        name: str,
        *,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_run_id: str | None = None,
        recipe_yaml: str | None = None,
        dataset: DatasetInput | None = None,
        started_at_ms: int | None = None,
    ) -> str:
        """Starts a run, now or in the past, and returns its id; `parent_run_id` makes it a child in MLflow's table."""
        all_tags = {"mlflow.user": owner(), **(tags or {})}
        if parent_run_id is not None:
            all_tags["mlflow.parentRunId"] = parent_run_id
        with _explained(self.uri):
            run = self.client.create_run(self.experiment_id, started_at_ms, all_tags, name)
            run_id: str = run.info.run_id
        self.describe(run_id, params=params, recipe_yaml=recipe_yaml, dataset=dataset)
        return run_id

    def describe(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        recipe_yaml: str | None = None,
        dataset: DatasetInput | None = None,
    ) -> None:
        """Records what a run is about; the same may be recorded again."""
        with _explained(self.uri):
            if params:
                self.log_params(run_id, params)
            if recipe_yaml is not None:
                self.client.log_text(run_id, recipe_yaml, "recipe.yaml")
            if dataset is not None:
                self.client.log_inputs(run_id, [_dataset_entity(dataset)])

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Records parameters; MLflow refuses to change one that is already there."""
        self.log(run_id, params=params)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Records metrics in one request, at `step` (an epoch, say)."""
        self.log(run_id, metrics=[MetricsAtStep(metrics, step or 0)])

    def log(
        self, run_id: str, *, params: Mapping[str, Any] | None = None, metrics: Sequence[MetricsAtStep] = ()
    ) -> None:
        """Records parameters and metrics of several steps in as few requests as MLflow allows.

        Metrics that are recorded twice with the same time are there once.
        """
        from mlflow.entities import Metric, Param

        rest = [
            Metric(key, float(value), at.measured_at_ms, at.step) for at in metrics for key, value in at.values.items()
        ]
        named = [Param(key, str(value)) for key, value in (params or {}).items()]
        with _explained(self.uri):
            while rest or named:
                now, rest = rest[:_MAX_METRICS], rest[_MAX_METRICS:]
                self.client.log_batch(run_id, metrics=now, params=named)
                named = []

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Sets tags; one that is there is replaced."""
        from mlflow.entities import RunTag

        with _explained(self.uri):
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def find_runs(self, tags: Mapping[str, str], *, everywhere: bool = False) -> list[str]:
        """Ids of the runs that carry all these tags, newest first; `everywhere` looks beyond this experiment."""
        with _explained(self.uri):
            ids = [self.experiment_id]
            if everywhere:
                ids = [found.experiment_id for found in _pages(self.client.search_experiments)]
            condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
            return [run.info.run_id for run in _pages(self.client.search_runs, ids, condition)]

    def open_children(self, parent_run_id: str) -> dict[str, str]:
        """The child runs that nobody has ended: each one's id and name."""
        condition = f"tags.`mlflow.parentRunId` = '{parent_run_id}' and attributes.status = 'RUNNING'"
        with _explained(self.uri):
            runs = _pages(self.client.search_runs, [self.experiment_id], condition)
            return {run.info.run_id: run.info.run_name for run in runs}

    def logged_steps(self, run_id: str, metric: str) -> set[int]:
        """The steps at which a metric was recorded."""
        with _explained(self.uri):
            return {logged.step for logged in self.client.get_metric_history(run_id, metric)}

    def reopen(self, run_id: str) -> None:
        """Marks a run as running again, after an interruption."""
        with _explained(self.uri):
            self.client.update_run(run_id, status="RUNNING")

    def discard(self, run_id: str) -> None:
        """Deletes a run."""
        with _explained(self.uri):
            self.client.delete_run(run_id)

    def finish(self, run_id: str, status: RunStatus = "FINISHED", ended_at_ms: int | None = None) -> None:
        """Ends a run, now or in the past."""
        with _explained(self.uri):
            self.client.set_terminated(run_id, status, ended_at_ms)


def _pages(search: Any, *arguments: Any) -> Iterator[Any]:
    """Every result of one of MLflow's paged searches."""
    token = None
    while True:
        page = search(*arguments, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _dataset_entity(dataset: DatasetInput) -> Any:
    from mlflow.entities import Dataset, InputTag
    from mlflow.entities import DatasetInput as Input

    entity = Dataset(
        name=dataset.name,
        digest=dataset.digest[:_MAX_DIGEST_LENGTH],
        source_type="tuneserve",
        source=json.dumps({"source": dataset.source, "digest": dataset.digest}),
        profile=json.dumps({f"{split}_rows": count for split, count in dataset.num_rows.items()}),
    )
    return Input(entity, [InputTag("mlflow.data.context", "training")])


def _artifact_location(uri: str, experiment: str) -> str | None:
    """Beside the database for SQLite; a server decides for itself."""
    database = sqlite_file(uri)
    return (database.parent / "mlflow-artifacts" / experiment).as_uri() if database else None


@contextmanager
def _database_lock(uri: str) -> Iterator[None]:
    """Lets one process at a time migrate an SQLite database and create experiments in it."""
    database = sqlite_file(uri)
    if database is None:
        yield
        return
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with (database.parent / ".mlflow.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise TrackingError(f"the database {uri} cannot be opened: {error}; choose another storage") from error


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns MLflow's exceptions into a `TrackingError` that names the server."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        raise refusal(uri, error) from error


def refusal(uri: str, error: Exception) -> TrackingError:
    """What a tracking server answered, for people."""
    reason = str(error).strip()
    way_out = "; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" if "error code 401" in reason else ""
    return TrackingError(f"{without_password(uri)} refuses: {reason}{way_out}")
