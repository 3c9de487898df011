"""What a sweep's trial costs beyond its own training, on generated headlines and the small BERT; leaves nothing behind.

    python -m scripts.bench_trials                  50 trials of one worker, and groups of two
    python -m scripts.bench_trials --many           10,000 trials that train nothing

`trial_overhead_s`, `group_trial_overhead_s`: trials run one after another through `tune.sweep.sweep`. From the end of
the first trial to the end of the sweep, less what the other trials trained (the "seconds" of their own history:
training and validation), divided by their number. So loading the model, writing and storing the checkpoint, recording,
the search and the sweep's own end count. What the first trial took beyond its training is stated apart: it starts the
process, or the group, and imports torch. The baseline is a Tune trial that calls `TorchTrainer`, as Ray's guide shows,
measured in the same way over a few trials.

`many_trials_ms`: a sweep of trials that report one result, through the same searcher, scheduler, recorder and Tune
settings as `tune.sweep` uses, up to the moment when MLflow (on SQLite) has everything; less the time in which TPE
suggests parameters, which is `many_trials_search_ms`; divided by the number of trials. `many_trials_kb`: growth of this
process from a tenth of the trials to the last, divided by the trials between; the two halves of it are stated apart,
because they should be equal. The baseline is Tune with its own Optuna search, MLflow callback and warm processes.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import psutil
import ray.tune
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from common.cluster import connect, resources
from common.dataset import load_splits
from common.recipe import Data, Model, Recipe, Split, Train
from common.search_range import Range
from common.search_settings import Search
from common.tokenised import PreparedData, prepare
from common.tracking import Tracker, sqlite_uri
from scripts.benchmark import Figure, run
from scripts.display import say, step
from scripts.plain_ray import report_in_trials, train_in_trials
from tune.allocation import Allocation, allocate
from tune.recorder import OnUpdate, TrialRecorder
from tune.scheduler import make_scheduler
from tune.study import StudySearch, TrialRecord, journal
from tune.sweep import sweep
from tune.tuner import Trainable, run_trials

NUM_TRIALS = 50
GROUP_TRIALS_SHARE = 5
"""Groups run a fifth of the trials."""
NUM_BASELINE_TRIALS = 3

NUM_MANY = 10_000
MANY_BASELINE_SHARE = 20
"""The baseline of `--many` runs a twentieth of the trials."""

RECIPE = Recipe(
    name="bench-trials",
    data=Data(source="builtin:finance_headlines", split=Split(validation=0.05, test=0.85)),
    model=Model(base="builtin:tiny_bert", max_length=48),
    train=Train(epochs=1),
    search=Search(space={"learning_rate": Range(log_uniform=(1e-4, 1e-3)), "weight_decay": Range(uniform=(0.0, 0.1))}),
)


@dataclass
class Measured:
    """When a sweep's trials ended, and how large this process was then."""

    started: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    trials_ended: list[float] = field(default_factory=list)
    memory_kb: list[float] = field(default_factory=list)

    def trial_ended(self) -> None:
        """To be called whenever a trial ends."""
        self.trials_ended.append(time.monotonic())
        self.memory_kb.append(psutil.Process().memory_info().rss / 1024)

    def on_update(self, record: TrialRecord) -> None:
        """Listens to a sweep."""
        if record.state != "running":
            self.trial_ended()

    def overhead_s(self, trained_s: list[float]) -> float:
        """Of a trial, but for the first one; `trained_s` is in the order in which the trials ran."""
        return (self.ended - self.trials_ended[0] - sum(trained_s[1:])) / len(trained_s[1:])

    def first_overhead_s(self, trained_s: list[float]) -> float:
        """Of the first trial, with the start of its process."""
        return self.trials_ended[0] - self.started - trained_s[0]

    def trial_ms(self, suggesting_s: float) -> float:
        """Of a trial, without the search."""
        return (self.ended - self.started - suggesting_s) / len(self.trials_ended) * 1000

    def growth_kb(self, start: float, end: float) -> float:
        """Memory a trial between two shares of the trials."""
        first, last = (round(share * (len(self.memory_kb) - 1)) for share in (start, end))
        return (self.memory_kb[last] - self.memory_kb[first]) / (last - first)


class Timed(Searcher):
    """A searcher that adds up the time in which it suggests, and what its thread works meanwhile."""

    suggesting_s = 0.0
    suggesting_cpu_s = 0.0

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Suggests."""
        started, worked = time.monotonic(), time.thread_time()
        suggestion: dict[str, Any] | None = super().suggest(trial_id)
        self.suggesting_s += time.monotonic() - started
        self.suggesting_cpu_s += time.thread_time() - worked
        return suggestion


class TimedStudySearch(Timed, StudySearch):
    """Ours."""


class TimedOptunaSearch(Timed, OptunaSearch):
    """Tune's own."""


def bench_overhead(prepared: PreparedData, tracker: Tracker, folder: str, num_trials: int) -> list[Figure]:
    """`trial_overhead_s` and `group_trial_overhead_s`."""
    figures = []
    for name, num_workers, trials in (
        ("trial_overhead_s", 1, num_trials),
        ("group_trial_overhead_s", 2, max(num_trials // GROUP_TRIALS_SHARE, 2)),
    ):
        step(f"{name}: {trials} trials of {num_workers} worker(s), baseline {NUM_BASELINE_TRIALS} trials")
        settings = RECIPE.train.model_validate({**RECIPE.train.model_dump(), "num_workers": num_workers})
        ours = Measured()
        search = RECIPE.search.model_copy(update={"num_trials": trials})
        result = sweep(
            RECIPE.model_copy(update={"train": settings, "search": search}),
            prepared,
            sweep_id=name,
            folder=f"{folder}/{name}",
            allocation=Allocation(num_workers, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1),
            tracker=tracker,
            recipe_yaml="",
            on_update=ours.on_update,
        )
        ours.ended = time.monotonic()
        trained = [trial.history[-1]["seconds"] for trial in sorted(result.trials, key=lambda trial: trial.number)]
        plain = Measured()
        plain_trained = train_in_trials(
            prepared,
            settings,
            num_trials=NUM_BASELINE_TRIALS,
            folder=f"{folder}/{name}-plain",
            on_end=plain.trial_ended,
        )
        plain.ended = time.monotonic()
        overheads = ours.overhead_s(trained), plain.overhead_s(plain_trained)
        figures.append(Figure(name, overheads[0], "s", overheads[1], more_is_better=False))
        say(f"  a trial trains {sum(trained) / len(trained):.2f} s")
        firsts = ours.first_overhead_s(trained), plain.first_overhead_s(plain_trained)
        say(f"  the first trial costs {firsts[0]:.1f} s beyond its training, {firsts[1]:.1f} s in the baseline")
    return figures


def report_epochs(config: Mapping[str, Any], epochs: int = 1) -> None:
    """A trial that trains nothing; its results, one for each epoch, depend on its parameters as a real one's do."""
    params = config.get("params", config)
    score = 1.0 - params["weight_decay"]
    measured = {"train_loss": 1.0, "loss": 1.0 - score, "accuracy": score, "macro_f1": score}
    for epoch in range(1, epochs + 1):
        ray.tune.report({"epoch": epoch, **measured, "tokens_per_s": 1.0, "samples_per_s": 1.0, "seconds": 0.0})


def run_many(
    recipe: Recipe,
    tracker: Tracker,
    folder: str,
    trainable: Trainable,
    *,
    epochs: int,
    max_concurrent: int,
    on_update: OnUpdate,
) -> TimedStudySearch:
    """A sweep of such trials in an empty folder, up to the moment when MLflow has everything; returns its search."""
    storage = journal(Path(folder) / "study.journal")
    search = TimedStudySearch(recipe.search, name="many", storage=storage, epochs=epochs)
    recorder = TrialRecorder(search, tracker, tracker.start("many"), on_update)
    run_trials(
        trainable,
        search=search,
        scheduler=make_scheduler(recipe, epochs=epochs),
        recorder=recorder,
        folder=folder,
        name="trials",
        resources={"CPU": 1.0},
        max_concurrent=max_concurrent,
    )
    recorder.close("FINISHED")
    return search


def bench_many(tracker: Tracker, folder: str, num_trials: int) -> list[Figure]:
    """`many_trials_ms` and `many_trials_kb`, and the time of the search."""
    recipe = RECIPE.model_copy(update={"search": RECIPE.search.model_copy(update={"num_trials": num_trials})})
    max_concurrent = allocate(recipe.train, resources(), recipe.search).max_concurrent
    baseline_trials = num_trials // MANY_BASELINE_SHARE
    step(f"{num_trials:,} trials that train nothing, {max_concurrent} at once, baseline {baseline_trials:,} trials")
    ours = Measured()
    search = run_many(
        recipe, tracker, folder, report_epochs, epochs=1, max_concurrent=max_concurrent, on_update=ours.on_update
    )
    ours.ended = time.monotonic()
    plain = Measured()
    plain_search = TimedOptunaSearch(metric="accuracy", mode="max")
    report_in_trials(
        report_epochs,
        plain_search,
        num_trials=baseline_trials,
        max_concurrent=max_concurrent,
        folder=folder,
        on_end=plain.trial_ended,
    )
    plain.ended = time.monotonic()
    halves = ours.growth_kb(0.1, 0.55), ours.growth_kb(0.55, 1.0)
    say(f"  growth a trial in the first and the second half: {halves[0]:.1f} and {halves[1]:.1f} KB")
    in_all = (ours.memory_kb[len(ours.memory_kb) // 10] / 1024, ours.memory_kb[-1] / 1024)
    say(f"  memory of the process at a tenth and at the end: {in_all[0]:.0f} and {in_all[1]:.0f} MB")
    times = ours.trial_ms(search.suggesting_s), plain.trial_ms(plain_search.suggesting_s)
    growths = ours.growth_kb(0.1, 1.0), plain.growth_kb(0.1, 1.0)
    return [
        Figure("many_trials_ms", times[0], "ms", times[1], more_is_better=False),
        Figure("many_trials_kb", growths[0], "KB", growths[1], more_is_better=False),
        Figure("many_trials_search_ms", search.suggesting_s / num_trials * 1000, "ms", more_is_better=False),
    ]


@click.command()
@click.option("--many", is_flag=True, help="Trials that train nothing.")
@click.option("--trials", type=click.IntRange(min=20), help="Their number; 50, or 10,000 with --many.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(many: bool, trials: int | None, as_json: bool) -> None:
    """Measures what a sweep's trial costs beyond its own training."""

    def measure() -> list[Figure]:
        with tempfile.TemporaryDirectory(prefix="bench-trials-") as folder:
            tracker = Tracker.open(sqlite_uri(folder), RECIPE.experiment)
            with connect():
                if many:
                    return bench_many(tracker, folder, trials or NUM_MANY)
                prepared = prepare(RECIPE, load_splits(RECIPE.data), folder)
                return bench_overhead(prepared, tracker, folder, trials or NUM_TRIALS)

    run(measure, as_json=as_json)


if __name__ == "__main__":
    main()
