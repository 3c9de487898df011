"""The section `search` of a recipe: what is searched, how long, and how the winner is chosen."""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, PositiveFloat, PositiveInt, WithJsonSchema, model_validator

from common.search_range import Point, Range, either, number_or_text
from common.settings import Settings

Metric = Literal["accuracy", "macro_f1", "loss"]
"""A validation metric to select by. `loss` is minimised, the others are maximised."""


def _default_space() -> dict[str, Range]:
    return {
        "learning_rate": Range(log_uniform=(1e-5, 3e-4)),
        "batch_size": Range(choice=(16, 32)),
        "weight_decay": Range(uniform=(0.0, 0.1)),
    }


def _starting_points(value: Any) -> str | tuple[dict[str, Any], ...]:
    if isinstance(value, str):
        return value
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(isinstance(point, dict) and point for point in value)
    ):
        raise ValueError(
            "should be the name of an earlier sweep or recipe, or a list of points such as [{learning_rate: 1.0e-4}]"
        )
    return tuple({str(name): number_or_text(setting) for name, setting in point.items()} for point in value)


def _as_written(points: str | tuple[dict[str, Any], ...]) -> str | list[dict[str, Any]]:
    return points if isinstance(points, str) else [dict(point) for point in points]


WarmStart = Annotated[
    str | tuple[dict[str, int | float | str], ...],
    PlainValidator(_starting_points),
    PlainSerializer(_as_written),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "string"}]},
                    },
                },
            ]
        }
    ),
]


class Confirm(Settings):
    """Fresh runs of the best configurations before one is crowned: the best of many trials is partly luck."""

    top: PositiveInt = 3
    """So many of the best configurations are trained again."""
    seeds: PositiveInt = 2
    """Runs of each, with the seeds that follow `train.seed`; these runs alone decide."""


class Search(Settings):
    """The search over hyperparameters."""

    space: dict[str, Range] = Field(default_factory=_default_space)
    """From a field of `train`, or of `model.lora` (`lora.r`), to the values it may take."""
    num_trials: PositiveInt = 20
    """Fine-tunings to start; the scheduler stops the unpromising ones early."""
    max_concurrent: PositiveInt | None = None
    """Trials at once; when not given, as many as the cluster, or `cluster_share` of it, holds."""
    cluster_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the cluster's CPUs, or GPUs, the sweep's trials hold so much at most, but one trial in any case."""
    time_budget_s: PositiveFloat | None = None
    """No new trial starts and running ones end after this long; the runs of `confirm` have their share of it. A budget
    in which no trial could report once is refused before the sweep starts."""
    metric: Metric = "accuracy"
    """What is selected by, measured on the validation split."""
    warm_start: WarmStart | None = None
    """What to try first: the best trials of an earlier sweep (its id, or a recipe's name for that recipe's newest
    finished sweep), or a list of points such as `[{learning_rate: 1.0e-4, batch_size: 16}]`. They count in
    `num_trials`; what a point does not name is sampled."""
    scheduler: Literal["asha", "fifo"] = "asha"
    """`asha` stops the worse trials at each rung; `fifo` trains every trial in full."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds the sampler (TPE)."""
    confirm: Confirm | None = None
    """Train the best configurations again, with fresh seeds, and crown the one with the best mean; costs up to
    `top` x `seeds` full trainings beyond `num_trials`. Not given: the best single trial wins."""

    @model_validator(mode="after")
    def _space_can_be_drawn_from(self) -> Self:
        problems = [] if self.space else ["space names no setting to search; name one, or leave the section out"]
        for name, values in self.space.items():
            problems += [f"space.{name}.when {problem}" for problem in _condition_problems(self.space, values)]
        if not problems:
            problems = self._circles()
        points = () if self.warm_start is None or isinstance(self.warm_start, str) else self.warm_start
        if len(points) > self.num_trials:
            problems.append(f"warm_start holds {len(points)} points for num_trials {self.num_trials}; raise num_trials")
        for number, point in enumerate(points, start=1):
            problems += [f"warm_start point {number}: {problem}" for problem in self.point_problems(point)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def draw_order(self) -> tuple[str, ...]:
        """The searched settings, each after those that its condition names."""
        parents = {name: tuple(values.when or ()) for name, values in self.space.items()}
        return tuple(TopologicalSorter(parents).static_order())

    def point_problems(self, point: Point) -> list[str]:
        """Why no trial can have the values of a point; empty when one can."""
        problems = []
        for name, value in point.items():
            if name not in self.space:
                problems.append(f"{name} is not searched; search.space has {', '.join(self.space)}")
            elif not self.space[name].holds(value):
                problems.append(f"{name} {value} lies outside search.space, {self.space[name]}")
            elif not self.space[name].applies(point):
                conditions = " and ".join(
                    f"{parent} is {either(values)}" for parent, values in (self.space[name].when or {}).items()
                )
                problems.append(f"{name} is searched only when {conditions}; leave it out, or name that too")
        return problems

    def _circles(self) -> list[str]:
        try:
            self.draw_order()
        except CycleError as error:
            return [f"space: the conditions of {', '.join(sorted(set(error.args[1])))} wait for each other; drop one"]
        return []


def _condition_problems(space: Mapping[str, Range], values: Range) -> list[str]:
    problems = []
    for parent, accepted in (values.when or {}).items():
        never = [value for value in accepted if parent in space and not space[parent].holds(value)]
        if parent not in space:
            problems.append(f"names {parent}, which is not searched; search.space has {', '.join(space)}")
        elif space[parent].is_continuous:
            problems.append(f"names {parent}, of which hardly a value is drawn twice; let it be a choice or int")
        elif never:
            problems.append(f"asks for {parent} {either(never)}, which is never drawn from {space[parent]}")
    return problems
