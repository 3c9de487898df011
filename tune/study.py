"""The Optuna study of a sweep: the one record of its trials.

The study is stored while the sweep runs. It holds each trial's parameters, its validation metric at every epoch, its
state, and (as user attributes) its best checkpoint, its MLflow run and the reason of a failure. Whatever ends the
driver, a new one continues from the study alone.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search.optuna import OptunaSearch

from common.metrics import direction
from common.search_range import Point
from common.search_settings import Search
from tune.search_space import draw
from tune.study_file import StudyFile

FAILURE = "failure"
"""Key of a result that ends a trial as failed, with the reason as its value."""

NOT_STORED = "not_stored"
"""Key of a result that says why a checkpoint could not be stored: the trial has not failed, the sweep cannot go on."""

GROUP_CHECKPOINT = "checkpoint_path"
"""Key of a result that says where a Ray Train group stored the epoch's checkpoint: Tune gets a note of it only."""

STARTING_POINT = "starting_point"
"""User attribute of a trial whose parameters were given: the place in the list of points."""

CONFIRMS, SEED = "confirms", "seed"
"""User attributes of a run that confirms: the number of the trial it repeats, and its fresh seed."""

RUN_OF = "run of "
"""Begins an attribute of the study, followed by a trial's name: its MLflow run. A trial takes no attributes once it has
ended, and its run may be written later than that."""

EPOCH = "epoch "
"""Begins a user attribute, followed by the epoch: what the trial reported. One for each: none is written twice."""

STEP_LOSSES = "step losses of epoch "
"""Begins a user attribute, followed by the epoch: the training loss by step, if the recipe asks for it."""

CHECKPOINTS = "checkpoints"
"""User attribute with the epoch and the path of the `best`, the `second` best and the `latest` checkpoint. They are
written together, so that whenever a driver is killed they fit each other."""

_RECIPE, _PREPARED = "recipe_yaml", "prepared_uri"
"""The study's own attributes that say what its trials do."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Confirmation:
    """A configuration's metric over runs with fresh seeds, on the validation split."""

    mean: float
    spread: float | None
    """Standard deviation over the seeds (n - 1); None of a single run."""
    values: tuple[float, ...]


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study knows it."""

    number: int
    state: str
    """`running`, `complete`, `pruned` (stopped early by the scheduler) or `failed`."""
    params: dict[str, int | float | str]
    """The searched settings; where a condition does not hold, the recipe's value does."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the best epoch with a checkpoint so far."""
    history: tuple[dict[str, float], ...] = ()
    """Metrics of every epoch."""
    checkpoint: str | None = None
    """Folder or URL of the best epoch's checkpoint."""
    latest_checkpoint: str | None = None
    fallback_checkpoint: str | None = None
    """Another one to continue from, should the latest be damaged: the best, or the best before that."""
    run_id: str | None = None
    failure: str | None = None
    seed: int | None = None
    """Of a run that confirms trial `number`: its fresh seed."""
    confirmation: Confirmation | None = None
    """How the configuration did with fresh seeds; None: it was not, or not fully, trained again."""

    @property
    def name(self) -> str:
        """Names its MLflow run and its folder; unique in the sweep."""
        return trial_name(self.number, self.seed)

    def without_checkpoints(self) -> "TrialRecord":
        """The same trial, when its checkpoints were not kept."""
        return replace(self, checkpoint=None, latest_checkpoint=None, fallback_checkpoint=None)

    @property
    def settings(self) -> dict[str, int | float | str]:
        """What it is trained with in place of the recipe's settings."""
        return self.params if self.seed is None else {**self.params, "seed": self.seed}


def trial_name(number: int, seed: int | None) -> str:
    """The name of a trial, or, with a seed, of a run that confirms it."""
    return f"trial-{number}" if seed is None else f"trial-{number}-seed-{seed}"


def leaderboard(records: Sequence[TrialRecord], metric: str) -> list[TrialRecord]:
    """Trials in order of the metric's best value over their epochs; those without a result last."""
    sign = 1.0 if direction(metric) == "min" else -1.0
    ranked = [record for record in records if record.metrics and record.state != "failed"]
    rest = [record for record in records if not record.metrics or record.state == "failed"]
    return sorted(ranked, key=lambda record: sign * record.metrics[metric]) + rest


def is_better(metric: str, candidate: float, than: float) -> bool:
    """Whether a metric's value is at least as good as another."""
    return candidate <= than if direction(metric) == "min" else candidate >= than


@dataclass(frozen=True)
class StoredStudy:
    """A study as its file holds it."""

    trials: tuple[TrialRecord, ...]
    """By number."""
    recipe_yaml: str | None
    """The resolved recipe; None until the sweep has started."""
    prepared_uri: str | None
    """The prepared data that the trials learn from; None until the sweep has started."""


def stored_study(path: Path, name: str) -> StoredStudy | None:
    """The study of that name, also while a sweep writes it; nothing is changed. None when the file holds none."""
    if not path.is_file():
        return None
    try:
        study = optuna.load_study(study_name=name, storage=journal(path))
    except KeyError:
        return None
    attributes = study.user_attrs
    return StoredStudy(_records(study), attributes.get(_RECIPE), attributes.get(_PREPARED))


def journal(path: Path) -> JournalStorage:
    """The study's storage: a file that any process of this machine may read while the sweep writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch()
    return JournalStorage(StudyFile(path))


class StudySearch(OptunaSearch):
    """`OptunaSearch` (TPE) over a stored study.

    It differs in three ways: trials that the scheduler stops are told to Optuna as PRUNED with their intermediate
    values, not as COMPLETE with a partial one; a trial that was running when an earlier driver ended is suggested
    again, with its checkpoint, before new ones; and the study, not a pickle, is what is saved.
    """

    keeps_all_checkpoints = False
    """Whether every trial that ends keeps its best checkpoint, and not the best trial alone."""

    def __init__(self, search: Search, *, name: str, storage: JournalStorage, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._epochs = epochs
        self._num_trials = search.num_trials
        # A resumed sampler with the first seed would suggest its start-up trials again (optuna issue 3255).
        seed = (search.seed + _num_trials(storage, name)) % 2**32
        super().__init__(
            functools.partial(draw, search=search),
            metric=search.metric,
            mode=direction(search.metric),
            # Optuna's default of 10 random trials would leave TPE out of a short sweep.
            sampler=optuna.samplers.TPESampler(n_startup_trials=min(10, 1 + search.num_trials // 3), seed=seed),
            study_name=name,
            storage=storage,
        )
        self.study: optuna.Study = cast("optuna.Study", self._ot_study)
        self._interrupted = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def start_from(self, points: Sequence[Point]) -> None:
        """Has these points suggested first, each once, however often a sweep is resumed."""
        trials = self.study.get_trials(deepcopy=False)
        known = {trial.user_attrs.get(STARTING_POINT) for trial in trials}
        for place, point in enumerate(points):
            if place not in known:
                self.study.enqueue_trial(dict(point), user_attrs={STARTING_POINT: place})

    def describe(self, recipe_yaml: str, prepared_uri: str) -> None:
        """Stores with the study what its trials do, so that a reader needs nothing else."""
        self.study.set_user_attr(_RECIPE, recipe_yaml)
        self.study.set_user_attr(_PREPARED, prepared_uri)

    def settle(self, finish_run: Callable[[str], None]) -> None:
        """Completes the trials whose training, but not their completion, an earlier driver saw to its end.

        `finish_run` ends a trial's MLflow run. It comes first: a driver that ends here leaves nothing half done.
        """
        seen_to_the_end = [
            frozen
            for frozen in self._interrupted
            if _checkpoint(frozen, "latest").get("epoch") == self._planned_epochs(frozen.params)
        ]
        for frozen in seen_to_the_end:
            if (run_id := self._record(frozen).run_id) is not None:
                finish_run(run_id)
            self._tell(optuna.Trial(self.study, frozen._trial_id), None)
            self._interrupted.remove(frozen)

    @property
    def num_finished(self) -> int:
        """Trials that need no more work, failed ones included."""
        return len(self.study.get_trials(deepcopy=False, states=FINISHED))

    @property
    def num_missing(self) -> int:
        """Trials still to be run, interrupted ones included."""
        return self._num_trials - self.num_finished

    def trial(self, tune_trial_id: str) -> optuna.Trial:
        """The Optuna trial behind a Tune trial."""
        trial: optuna.Trial = self._ot_trials[tune_trial_id]
        return trial

    def records(self) -> list[TrialRecord]:
        """All trials of the study, by number."""
        return list(_records(self.study))

    def record(self, tune_trial_id: str) -> TrialRecord:
        """The trial behind a Tune trial, as the study knows it."""
        return self._record(self._stored(self.trial(tune_trial_id)))

    def record_run(self, name: str, run_id: str) -> None:
        """Notes which MLflow run is that of the trial of that name; may be called from another thread."""
        self.study.set_user_attr(f"{RUN_OF}{name}", run_id)

    def record_epoch(self, tune_trial_id: str, metrics: Mapping[str, float]) -> None:
        """Notes what an epoch reported."""
        self.trial(tune_trial_id).set_user_attr(f"{EPOCH}{int(metrics['epoch'])}", dict(metrics))

    def record_step_losses(self, tune_trial_id: str, epoch: int, losses: Mapping[int, float]) -> bool:
        """Notes the training loss by step; of an epoch that a resumed trial repeats, what it gave first stays.

        Returns whether they are new.
        """
        trial, name = self.trial(tune_trial_id), f"{STEP_LOSSES}{epoch}"
        if name in self._stored(trial).user_attrs:
            return False
        trial.set_user_attr(name, {str(step): loss for step, loss in losses.items()})
        return True

    def step_losses(self) -> dict[str, dict[int, float]]:
        """By the trials' names, the training loss by step."""
        trials, attributes = self.study.get_trials(deepcopy=False), _attributes(self.study)
        return {
            _record(trial, attributes).name: {
                int(step): loss
                for key, losses in trial.user_attrs.items()
                if key.startswith(STEP_LOSSES)
                for step, loss in losses.items()
            }
            for trial in trials
        }

    def record_checkpoint(self, tune_trial_id: str, epoch: int, path: str) -> None:
        """Notes where the checkpoint of an epoch lies, after `record_epoch`, and whether it is the best one."""
        trial = self.trial(tune_trial_id)
        stored = self._stored(trial)
        latest: dict[str, Any] = {"epoch": epoch, "path": path}
        best, second = _checkpoint(stored, "best"), _checkpoint(stored, "second")
        if not best or is_better(self.metric, self._value(stored, epoch), self._value(stored, best["epoch"])):
            best, second = latest, best
        trial.set_user_attr(CHECKPOINTS, {"best": best, "second": second, "latest": latest})

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The parameters to try next; a trial that an earlier driver left unfinished comes first."""
        if self._interrupted:
            frozen = self._interrupted.pop(0)
            self._ot_trials[trial_id] = optuna.Trial(self.study, frozen._trial_id)
        super().suggest(trial_id)
        return _suggestion(self.record(trial_id))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Reports an epoch's metric to the study; an epoch that a resumed trial repeats is reported once."""
        trial = self.trial(trial_id)
        if self.metric in result and int(result["epoch"]) not in self._stored(trial).intermediate_values:
            trial.report(float(result[self.metric]), int(result["epoch"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study how a trial ended; one whose checkpoint could not be stored is to be continued."""
        if NOT_STORED in (result or {}):
            return
        self.on_trial_result(trial_id, result or {})  # Tune does not report the epoch that the scheduler stops at
        failure = (result or {}).get(FAILURE) or ("its process died; see the log of its worker" if error else None)
        self._tell(self.trial(trial_id), failure)

    def end_unfinished(self) -> None:
        """Tells the study that the trials which still run were stopped: Tune does not when its time budget ends."""
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._tell(optuna.Trial(self.study, frozen._trial_id), None)

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        return _record(trial, _attributes(self.study))

    def _value(self, trial: FrozenTrial, epoch: int) -> float:
        return float(trial.user_attrs[f"{EPOCH}{epoch}"][self.metric])

    def _stored(self, trial: optuna.Trial) -> FrozenTrial:
        return self.study._storage.get_trial(trial._trial_id)

    def _tell(self, trial: optuna.Trial, failure: str | None) -> None:
        stored = self._stored(trial)
        values = list(stored.intermediate_values.values())
        if stored.state.is_finished():
            return
        if failure or not values:
            trial.set_user_attr(FAILURE, failure or "it ended before its first epoch did")
            self.study.tell(trial, state=TrialState.FAIL)
        elif len(values) < self._planned_epochs(trial.params):
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, min(values) if self.mode == "min" else max(values))

    def _planned_epochs(self, params: Mapping[str, Any]) -> int:
        return int(params.get("epochs", self._epochs))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is stored as it changes."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is read when the searcher is made."""


def _num_trials(storage: JournalStorage, name: str) -> int:
    if name not in {study.study_name for study in storage.get_all_studies()}:
        return 0
    return storage.get_n_trials(storage.get_study_id_from_name(name))


def _suggestion(record: TrialRecord) -> dict[str, Any]:
    """What a trial is started with (see `tune.trial.run_trial`)."""
    return {
        "params": record.settings,
        "name": record.name,
        "resume_from": [c for c in (record.latest_checkpoint, record.fallback_checkpoint) if c is not None],
    }


def _attributes(study: optuna.Study) -> Mapping[str, Any]:
    """The study's own attributes, which `study.user_attrs` would copy."""
    attributes: Mapping[str, Any] = study._storage.get_study_user_attrs(study._study_id)
    return attributes


def _records(study: optuna.Study) -> tuple[TrialRecord, ...]:
    trials, attributes = study.get_trials(deepcopy=False), _attributes(study)
    return tuple(_record(trial, attributes) for trial in trials if trial.state != TrialState.WAITING)


def _record(trial: FrozenTrial, of_study: Mapping[str, Any]) -> TrialRecord:
    attributes: Mapping[str, Any] = trial.user_attrs
    best, latest = _checkpoint(trial, "best"), _checkpoint(trial, "latest")
    fallback = best if best != latest else _checkpoint(trial, "second")
    number, seed = attributes.get(CONFIRMS, trial.number), attributes.get(SEED)
    return TrialRecord(
        number=number,
        state="failed" if trial.state == TrialState.FAIL else trial.state.name.lower(),
        params=dict(trial.params),
        # Of the epoch that the checkpoint is of: an epoch whose checkpoint was lost cannot be promoted.
        metrics=dict(attributes[f"{EPOCH}{best['epoch']}"]) if best else {},
        history=tuple(metrics for key, metrics in attributes.items() if key.startswith(EPOCH)),
        checkpoint=best.get("path"),
        latest_checkpoint=latest.get("path"),
        fallback_checkpoint=fallback.get("path"),
        run_id=of_study.get(f"{RUN_OF}{trial_name(number, seed)}"),
        failure=attributes.get(FAILURE),
        seed=seed,
    )


def _checkpoint(trial: FrozenTrial, which: str) -> dict[str, Any]:
    checkpoint: dict[str, Any] = trial.user_attrs.get(CHECKPOINTS, {}).get(which, {})
    return checkpoint
