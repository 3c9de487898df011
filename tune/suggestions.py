"""The trials that Ray Tune gets: what the study suggests, as light as Tune's own objects may be."""

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.search import SearchAlgorithm

from tune.study import StudySearch


class SweepTrial(Trial):
    """A trial of which Tune keeps no more than it needs to run it.

    For each of its own, Tune asks the cluster's control store three times for the same class, asks the process for
    metrics of the time before the first report, and keeps statistics of every metric: half of its time on a trial.
    """

    def __init__(self, trainable: type, name: str, **settings: Any) -> None:
        super().__init__(name, stub=True, _setup_default_resource=False, **settings)
        self._trainable = trainable

    def get_trainable_cls(self) -> type:
        """The class that runs the trial."""
        return self._trainable

    def set_ray_actor(self, ray_actor: Any) -> None:
        """Notes the process that runs the trial."""
        self.temporary_state.ray_actor = ray_actor

    def update_last_result(self, result: dict[str, Any]) -> None:
        """Notes the newest report."""
        self.run_metadata.last_result = result


class Suggestions(SearchAlgorithm):
    """Makes Tune's trials of the study's suggestions, `max_concurrent` at once and `num_trials` altogether."""

    def __init__(
        self,
        search: StudySearch,
        make_trial: Callable[[str, dict[str, Any]], Trial],
        *,
        num_trials: int,
        max_concurrent: int,
    ) -> None:
        self._search = search
        self._make_trial = make_trial
        self._num_left = num_trials
        self._max_concurrent = max_concurrent
        self._live: set[str] = set()

    def next_trial(self) -> Trial | None:
        """The next trial; None while there are enough of them."""
        if self.is_finished() or len(self._live) >= self._max_concurrent:
            return None
        trial_id = Trial.generate_id()
        suggestion = self._search.suggest(trial_id)
        if suggestion is None:
            return None
        self._live.add(trial_id)
        self._num_left -= 1
        return self._make_trial(trial_id, suggestion)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tells the study what a trial reported."""
        self._search.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study how a trial ended; another one may start."""
        self._search.on_trial_complete(trial_id, result, error)
        self._live.discard(trial_id)

    def is_finished(self) -> bool:
        """Whether no more trials will start."""
        return self._num_left <= 0 or self._finished
