"""Stopping the unpromising trials early: ASHA over epochs."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from common.metrics import direction
from common.recipe import Recipe
from tune.study import TrialRecord

REDUCTION_FACTOR = 3
"""ASHA keeps the best third at each rung (Li et al., 2020, "A System for Massively Parallel Hyperparameter Tuning")."""


def rungs(recipe: Recipe) -> tuple[int, ...]:
    """The epochs after which ASHA stops trials; none where every trial is trained in full."""
    if recipe.search.scheduler == "fifo":
        return ()
    found = [1]
    while found[-1] < recipe.max_epochs:
        found.append(found[-1] * REDUCTION_FACTOR)
    return tuple(found[:-1])


def make_scheduler(recipe: Recipe, epochs: int) -> TrialScheduler:
    """ASHA over epochs, or FIFO when there is nothing to stop early."""
    if recipe.search.scheduler == "fifo" or epochs == 1:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch",
        metric=recipe.search.metric,
        mode=direction(recipe.search.metric),
        max_t=epochs,
        grace_period=1,
        reduction_factor=REDUCTION_FACTOR,
        stop_last_trials=False,
    )


def replay(scheduler: Any, records: Sequence[TrialRecord], metric: str) -> None:
    """Fills ASHA's rungs with what earlier drivers saw; Tune itself forgets them."""
    for record in records:
        if record.state == "running":
            continue  # it reports again when it is resumed, under another id
        trial: Any = SimpleNamespace(trial_id=f"earlier-{record.number}")  # ASHA looks at a trial's id alone
        scheduler.on_trial_add(None, trial)
        for epoch in record.history:
            scheduler.on_trial_result(None, trial, {"epoch": epoch["epoch"], metric: epoch[metric]})
