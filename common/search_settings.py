"""The section `search` of a recipe: what is searched, how long, and how the winner is chosen."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, FiniteFloat, PositiveFloat, PositiveInt, model_validator

from common.settings import Settings

Metric = Literal["accuracy", "macro_f1", "loss"]
"""A validation metric to select by. `loss` is minimised, the others are maximised."""


class Range(Settings):
    """The values one searched setting may take; exactly one kind is given."""

    model_config = ConfigDict(populate_by_name=True)

    log_uniform: tuple[PositiveFloat, PositiveFloat] | None = None
    """`[low, high]`, sampled uniformly in the logarithm."""
    uniform: tuple[FiniteFloat, FiniteFloat] | None = None
    """`[low, high]`, sampled uniformly."""
    integer: Annotated[tuple[int, int] | None, Field(alias="int")] = None
    """`[low, high]`, whole numbers, both ends included."""
    choice: Annotated[tuple[int | float, ...] | None, Field(min_length=1)] = None
    """One of the listed values."""
    fixed: int | float | None = None
    """Always this value."""

    @model_validator(mode="after")
    def _one_kind_with_ordered_bounds(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of log_uniform, uniform, int, choice, fixed")
        bounds = self.log_uniform or self.uniform or self.integer
        if bounds and bounds[0] >= bounds[1]:
            raise ValueError(f"bounds [{bounds[0]:g}, {bounds[1]:g}] are not in rising order; swap them")
        return self

    def bounds(self) -> tuple[float, ...]:
        """The values that bound this range: both ends, all choices, or the one fixed value."""
        if self.fixed is not None:
            return (self.fixed,)
        return self.log_uniform or self.uniform or self.integer or self.choice or ()


def _default_space() -> dict[str, Range]:
    return {
        "learning_rate": Range(log_uniform=(1e-5, 3e-4)),
        "batch_size": Range(choice=(16, 32)),
        "weight_decay": Range(uniform=(0.0, 0.1)),
    }


class Confirm(Settings):
    """Fresh runs of the best configurations before one is crowned: the best of many trials is partly luck."""

    top: PositiveInt = 3
    """So many of the best configurations are trained again."""
    seeds: PositiveInt = 2
    """Runs of each, with the seeds that follow `train.seed`; these runs alone decide."""


class Search(Settings):
    """The search over hyperparameters."""

    space: Annotated[dict[str, Range], Field(min_length=1)] = Field(default_factory=_default_space)
    """From a field of `train` to the values it may take."""
    num_trials: PositiveInt = 20
    """Fine-tunings to start; the scheduler stops the unpromising ones early."""
    max_concurrent: PositiveInt | None = None
    """Trials at once; when not given, as many as the cluster holds."""
    time_budget_s: PositiveFloat | None = None
    """No new trial starts and running ones end after this long."""
    metric: Metric = "accuracy"
    """What is selected by, measured on the validation split."""
    scheduler: Literal["asha", "fifo"] = "asha"
    """`asha` stops the worse trials at each rung; `fifo` trains every trial in full."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds the sampler (TPE)."""
    confirm: Confirm | None = None
    """Train the best configurations again, with fresh seeds, and crown the one with the best mean; costs up to
    `top` x `seeds` full trainings beyond `num_trials`. Not given: the best single trial wins."""
