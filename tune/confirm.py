"""Fresh seeds before one configuration is crowned.

The best of many trials owes its score in part to its seed, and the more trials there are, the larger that part. So the
leading configurations are trained again, all with the same new seeds, and the best mean wins. The run that put a
configuration among the leaders does not count: it was chosen for its score.
"""

import dataclasses
import statistics
from collections.abc import Sequence

from optuna.storages import JournalStorage

from common.metrics import direction
from common.recipe import Recipe
from common.search_settings import Confirm
from tune.study import CONFIRMS, SEED, Confirmation, StudySearch, TrialRecord


def fresh_seeds(recipe: Recipe, confirm: Confirm) -> tuple[int, ...]:
    """The seeds that follow the recipe's: every leader is trained with each of them."""
    return tuple((recipe.train.seed + number) % 2**32 for number in range(1, confirm.seeds + 1))


class ConfirmationSearch(StudySearch):
    """Suggests the leaders again, once for each fresh seed.

    Its study lies in the same file as the search's, but is another one: what TPE learns from is the search alone.
    """

    keeps_all_checkpoints = True  # whose is promoted follows from the mean over all of a configuration's runs

    def __init__(
        self,
        recipe: Recipe,
        *,
        name: str,
        storage: JournalStorage,
        leaders: Sequence[TrialRecord],
        seeds: Sequence[int],
    ) -> None:
        super().__init__(recipe.search, name=f"{name}-confirm", storage=storage, epochs=recipe.train.epochs)
        trials = self.study.get_trials(deepcopy=False)
        planned = {(trial.user_attrs[CONFIRMS], trial.user_attrs[SEED]) for trial in trials}
        for seed in seeds:  # all leaders with one seed before the next: whenever time runs out, they had the same
            for leader in leaders:
                if (leader.number, seed) not in planned:
                    self.study.enqueue_trial(leader.params, user_attrs={CONFIRMS: leader.number, SEED: seed})

    @property
    def num_missing(self) -> int:
        """Runs that are planned or were interrupted."""
        return len(self.study.get_trials(deepcopy=False)) - self.num_finished


def crowned(
    leaderboard: Sequence[TrialRecord], runs: Sequence[TrialRecord], seeds: Sequence[int], metric: str
) -> list[TrialRecord]:
    """The leaderboard with the confirmed configurations first, by their mean over the fresh seeds.

    A configuration of which one run failed, or did not end in time, is not confirmed.
    """
    sign = 1.0 if direction(metric) == "min" else -1.0
    confirmed, rest = [], []
    for trial in leaderboard:
        values = [run.metrics[metric] for run in _complete_runs(trial, runs, seeds)]
        if len(values) < len(seeds):
            rest.append(trial)
            continue
        spread = statistics.stdev(values) if len(values) > 1 else None
        confirmation = Confirmation(statistics.fmean(values), spread, tuple(values))
        confirmed.append((sign * confirmation.mean, dataclasses.replace(trial, confirmation=confirmation)))
    return [trial for _, trial in sorted(confirmed, key=lambda ranked: ranked[0])] + rest


def representative(winner: TrialRecord, runs: Sequence[TrialRecord], seeds: Sequence[int], metric: str) -> TrialRecord:
    """The winner's run whose metric is nearest to the mean, of two as near the earlier: neither lucky nor unlucky.

    The luckiest run would bring back what confirming is against. A winner that was not confirmed stands for itself.
    """
    if winner.confirmation is None:
        return winner
    mean = winner.confirmation.mean
    return min(_complete_runs(winner, runs, seeds), key=lambda run: round(abs(run.metrics[metric] - mean), 12))


def _complete_runs(trial: TrialRecord, runs: Sequence[TrialRecord], seeds: Sequence[int]) -> list[TrialRecord]:
    """The finished runs of a configuration, in the order of the seeds."""
    own = {run.seed: run for run in runs if run.number == trial.number and run.state == "complete" and run.metrics}
    return [own[seed] for seed in seeds if seed in own]
