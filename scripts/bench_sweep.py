"""How soon a sweep has a configuration as good as the best of a whole grid.

    python -m scripts.bench_sweep recipes/quickstart.yaml data.split.validation=0.3 train.epochs=3 --rows 600
    python -m scripts.bench_sweep recipes/sms_spam.yaml data.source=PATH/all.csv data.text_column=text \\
        model.base=PATH/minilm 'search.space.batch_size.choice=[16,32,64]' --rows 500

The grid has three values each of learning rate, batch size and weight decay, taken from the recipe's space. First all
27 are trained in full by our train loop, with as many threads as a trial has, which says what the best is worth. Then,
each timed from an empty machine, the start of Ray included:

- ours: `tune.sweep.sweep` over the 27, until its best trial is within 0.2 points of that best;
- the 27 one after another, as tutorials would: padded to 128 tokens, fp32;
- `Trainer.hyperparameter_search` over the grid with 27 trials, by its Optuna and by its Ray back end.

The others tell their best when they end, so their time is that of the whole.
"""

import itertools
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import click
import torch

from common.cluster import connect, resources
from common.errors import InputError
from common.recipe_file import dump_recipe, load_recipe
from common.search_range import Point, Range
from common.tracking import Tracker, sqlite_uri
from scripts.benchmark import Figure, run
from scripts.contest import Contest, contest, ours, tutorial
from scripts.display import say, step
from scripts.trainer_search import timed_search
from tune.allocation import allocate
from tune.study import TrialRecord
from tune.sweep import sweep

SEARCHED = ("learning_rate", "batch_size", "weight_decay")
CLOSE = 0.002
"""0.2 points of accuracy."""

TRIAL_THREADS = 1
"""What a trial has by default: on each of the CPUs runs one."""

Grid = dict[str, tuple[int | float, ...]]


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("--rows", type=int, help="Training rows; all by default.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(recipe: str, overrides: tuple[str, ...], rows: int | None, as_json: bool) -> None:
    """Times our sweep, the grid and Transformers' own searches on the same rows."""

    def measure() -> list[Figure]:
        settings = load_recipe(recipe, overrides)
        grid = {name: _three(name, settings.search.space) for name in SEARCHED}
        with contest(settings, rows, torch.get_num_threads()) as both:
            return _measure(both, grid)

    run(measure, as_json=as_json)


def _measure(both: Contest, grid: Grid) -> list[Figure]:
    step(f"{both.prepared.num_rows['train']:,} rows, {both.recipe.train.epochs} epochs; grid {grid}")
    points: list[Point] = [dict(zip(SEARCHED, values, strict=True)) for values in itertools.product(*grid.values())]
    as_a_trial = replace(both, num_threads=TRIAL_THREADS)
    best = max(ours(as_a_trial, both.recipe.train.seed, point).best_accuracy for point in points)
    say(f"  the best of {len(points)} trained in full has accuracy {best:.4f}")
    reached_s, total_s, found = _our_sweep(both, points, best - CLOSE)
    say(f"  ours: within 0.2 points after {reached_s:.1f} s, the end after {total_s:.1f} s, best accuracy {found:.4f}")
    started = time.perf_counter()
    found = max(tutorial(both, both.recipe.train.seed, point).accuracy for point in points)
    one_by_one_s = time.perf_counter() - started
    say(f"  the grid, one by one: {one_by_one_s:.1f} s, best accuracy {found:.4f}")
    searches = {}
    for backend in ("optuna", "ray"):
        searches[backend], found = timed_search(both, grid, len(points), backend)
        say(f"  Trainer's search with {backend}: {searches[backend]:.1f} s, best accuracy {found:.4f}")
    return [
        Figure("sweep_seconds", reached_s, "s", one_by_one_s, more_is_better=False),
        Figure("sweep_seconds_to_the_end", total_s, "s", one_by_one_s, more_is_better=False),
        *(
            Figure(f"sweep_seconds_against_{backend}", reached_s, "s", seconds, more_is_better=False)
            for backend, seconds in searches.items()
        ),
    ]


def _three(name: str, space: Mapping[str, Range]) -> tuple[int | float, ...]:
    """Three values of a recipe's range: its ends and its middle, or its first three choices."""
    values = space.get(name)
    if values and values.log_uniform:
        low, high = values.log_uniform
        return (low, math.sqrt(low * high), high)
    if values and values.uniform:
        low, high = values.uniform
        return (low, (low + high) / 2, high)
    if values and values.choice and len(values.choice) >= 3:
        return tuple(values.choice[:3])  # type: ignore[arg-type]  # none of the three has names for values
    raise InputError(f"search.space.{name} gives no three values; give log_uniform, uniform or three choices")


def _our_sweep(both: Contest, points: Sequence[Point], target: float) -> tuple[float, float, float]:
    """Seconds until the best trial reaches the target (infinite if none does) and to the end, and the best accuracy."""
    space = {name: Range(choice=tuple(sorted({point[name] for point in points}))) for name in SEARCHED}
    search = both.recipe.search.model_copy(update={"space": space, "num_trials": len(points), "metric": "accuracy"})
    recipe = both.recipe.model_copy(update={"search": search})
    started = time.perf_counter()
    reached_s = math.inf

    def look(record: TrialRecord) -> None:
        nonlocal reached_s
        if record.metrics and record.metrics["accuracy"] >= target:
            reached_s = min(reached_s, time.perf_counter() - started)

    with tempfile.TemporaryDirectory(prefix="tuneserve-bench-") as storage, connect():
        result = sweep(
            recipe,
            both.prepared,
            sweep_id="bench",
            folder=f"{storage}/runs/bench",
            allocation=allocate(recipe.train, resources(), recipe.search),
            tracker=Tracker.open(sqlite_uri(storage), "bench"),
            recipe_yaml=dump_recipe(recipe),
            on_update=look,
            points=points,
        )
    return reached_s, time.perf_counter() - started, result.best.metrics["accuracy"]


if __name__ == "__main__":
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    main()
