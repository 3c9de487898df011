"""A sweep as its storage holds it: read without a cluster, while it runs or after, and never changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from common.errors import InputError
from common.location import join
from common.metrics import direction
from common.recipe import Recipe
from common.search_range import Range
from common.storage import read_json
from tune.study import TrialRecord, leaderboard, stored_study
from tune.study_place import fetch_study


@dataclass(frozen=True)
class Missing:
    """Why something about a sweep cannot be said."""

    reason: str
    """A sentence for people."""


@dataclass(frozen=True)
class StoredSweep:
    """A sweep of which at least one trial has finished an epoch."""

    sweep_id: str
    recipe: Recipe
    trials: tuple[TrialRecord, ...]
    """By number."""
    prepared_uri: str
    """The prepared data that the trials learned from."""
    is_finished: bool

    @property
    def metric(self) -> str:
        """What the trials are ranked by, on the validation split."""
        return self.recipe.search.metric

    @property
    def minimises(self) -> bool:
        """Whether less of the metric is better."""
        return direction(self.metric) == "min"

    @property
    def searched(self) -> dict[str, Range]:
        """The part of the search space that has more than one value."""
        return {name: values for name, values in self.recipe.search.space.items() if len(set(values.bounds())) > 1}

    @property
    def compared(self) -> dict[str, Range]:
        """Of `searched`, what every trial has a value of: without what only some search, under a condition."""
        return {name: values for name, values in self.searched.items() if values.when is None}

    @cached_property
    def winner(self) -> TrialRecord | None:
        """The best trial that can be promoted, of those that there are so far."""
        best = leaderboard(self.trials, self.metric)[0]
        return best if self.value(best) is not None and best.state != "failed" else None

    def value(self, trial: TrialRecord) -> float | None:
        """The metric of a trial's best epoch with a checkpoint, which is what it is ranked by."""
        return trial.metrics.get(self.metric)

    def valued(self, *, failed: bool = False) -> list[TrialRecord]:
        """The trials that have a value, by number; those that failed later only when asked for."""
        return [trial for trial in self.trials if self.value(trial) is not None and (failed or trial.state != "failed")]


def load_sweep(runs: str, sweep_id: str) -> StoredSweep:
    """The sweep in the folder `runs` of a storage, from its study, or from its result where the study is elsewhere.

    Raises:
        InputError: when the sweep cannot be read from here, or when none of its trials has finished an epoch.
    """
    folder = join(runs, sweep_id)
    result: Mapping[str, Any] | None = read_json(join(folder, "result.json"))
    study = stored_study(fetch_study(folder), sweep_id)
    if study is None and result is None:
        raise InputError(_too_early(sweep_id, ()))
    trials = study.trials if study else tuple(_trial(fields) for fields in result["trials"]) if result else ()
    recipe_yaml = study and study.recipe_yaml
    document = yaml.safe_load(recipe_yaml) if recipe_yaml else result and result["recipe"]
    prepared_uri: str | None = (study and study.prepared_uri) or (result and result["prepared_uri"]) or None
    if document is None or prepared_uri is None or not any(trial.history for trial in trials):
        raise InputError(_too_early(sweep_id, trials))
    is_finished = result is not None and all(trial.state != "running" for trial in trials)
    return StoredSweep(sweep_id, Recipe.model_validate(document), trials, prepared_uri, is_finished)


def _trial(fields: Mapping[str, Any]) -> TrialRecord:
    return TrialRecord(**{**fields, "history": tuple(fields["history"])})


def _too_early(sweep_id: str, trials: Sequence[TrialRecord]) -> str:
    reasons = sorted({trial.failure for trial in trials if trial.failure})
    if reasons and all(trial.state == "failed" for trial in trials):
        return (
            f"none of the {len(trials)} trials of {sweep_id} finished an epoch ({'; '.join(reasons)}); mend the cause"
        )
    return f"no trial of {sweep_id} has finished an epoch yet; ask again when one has (tuneserve status)"
