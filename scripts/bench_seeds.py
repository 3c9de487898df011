"""Four workflows that tuneserve replaces, each beside tuneserve on the same rows: from the data to an answer.

    python -m scripts.bench_seeds PATH/data PATH/minilm --rows 400

PATH/data holds sms_spam/all.csv, financial_phrasebank/all.csv and twitter_financial_news/train.csv and validation.csv,
each with the columns text and label; the two workflows on SMS spam train alike and share a row.

- Their way: the settings picked by hand, which the recipe has as its starting points, one after another with
  `transformers.Trainer`: fp32, each text padded to 128 tokens, the last epoch's model, with peft's adapters where they
  are used. Nothing is held out for the choice, so all rows but the test split are trained on, and the best is chosen on
  the test split, as they do; the time is that of training and one evaluation each. The chosen one is trained again with
  each further seed. Then a Transformers pipeline in a process of its own answers one text after another, and counts as
  asleep until that process is started.
- Ours: `tuneserve up` and `tuneserve run`, with each seed, once with exactly as many trials and once with the recipe's.
  That starts Ray, searches, chooses on rows of its own, exports to int8, tests, registers and deploys, and all of it
  counts. The endpoint answers over HTTP, under 8 connections.

Accuracy and macro-F1 are those on the test split, of what answers; of ours that is the exported graph.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
import transformers

from common.dataset import load_splits, text_hash64
from common.errors import TuneserveError
from common.ray_environment import PROJECT_ROOT
from common.ray_head import free_port
from common.recipe import Recipe
from common.recipe_file import load_recipe, shipped_recipes
from common.tokenised import local_base_model
from scripts.benchmark import Figure, run
from scripts.contest import Contest, contest, tutorial_trainer
from scripts.display import say, step
from scripts.load import load
from scripts.served import ask, wait
from tune.quiet import quiet

SPLIT = ("data.split.validation=0.15", "data.split.test=0.2")
LIKE_OURS = ("data.text_column=text", "data.column_names=null", "data.encoding=utf-8", "data.label_names=null")
"""What the files are like, whatever a recipe's own source is."""

SMALL = ("registry.quick_checks=[]", "serve.downscale_to_zero_delay_s=2")
"""A few hundred rows need not teach what a quick check asks."""

CONNECTIONS = 8
SERVED_S = 5.0
NUM_WAKES = 5
MAX_TEXTS = 256


@dataclass(frozen=True)
class Workflow:
    """One of them, or two that train alike."""

    key: str
    title: str
    recipe: str
    files: tuple[str, ...]
    """Overrides; `{data}` stands for the folder."""


WORKFLOWS = (
    Workflow(
        "sms_spam",
        "SMS spam (the MLflow lab; Databricks)",
        "sms_spam",
        ("data.source={data}/sms_spam/all.csv", *SPLIT),
    ),
    Workflow(
        "phrasebank",
        "Financial PhraseBank (Domino)",
        "financial_phrasebank",
        ("data.source={data}/financial_phrasebank/all.csv", *SPLIT),
    ),
    Workflow(
        "tweets",
        "finance tweets (DeBERTa + LoRA)",
        "finance_tweets_lora",
        (
            "data.source={data}/twitter_financial_news/train.csv",
            "data.validation_source=null",
            "data.test_source={data}/twitter_financial_news/validation.csv",
            "data.split.validation=0.15",
            "model.lora.target_modules=[query,key,value]",
        ),
    ),
)


@dataclass(frozen=True)
class Scores:
    """On the test split."""

    accuracy: float
    macro_f1: float

    def __str__(self) -> str:
        return f"accuracy {self.accuracy:.4f}, macro-F1 {self.macro_f1:.4f}"


@dataclass(frozen=True)
class Way:
    """What one way of doing it came to; `scores` and `seconds` have an entry a seed."""

    num_configurations: int
    scores: tuple[Scores, ...]
    seconds: tuple[float, ...]
    """For all configurations: theirs was done once, ours once a seed."""
    wake_s: float = 0.0
    requests_per_s: float = 0.0


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False))
@click.argument("model")
@click.option("--rows", type=int, help="Rows outside the test split; all by default.")
@click.option("--test-rows", default=1000, show_default=True, help="Of the test split.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--only", type=click.Choice([workflow.key for workflow in WORKFLOWS]), help="One of the workflows.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(data: str, model: str, rows: int | None, test_rows: int, seeds: int, only: str | None, as_json: bool) -> None:
    """Does each workflow its own way and ours."""

    def measure() -> list[Figure]:
        found: list[Figure] = []
        for workflow in WORKFLOWS:
            if only in (None, workflow.key):
                found += figures(workflow.key, *_compare(workflow, data, model, rows, test_rows, seeds))
        return found

    run(measure, as_json=as_json)


def _compare(
    workflow: Workflow, data: str, model: str, rows: int | None, test_rows: int, seeds: int
) -> tuple[Way, Way, Way]:
    """Their way, ours with as many configurations, and ours with the recipe's."""
    step(workflow.title)
    path = str(shipped_recipes()[workflow.recipe])
    base = f"model.base={Path(model).absolute()}"
    given = [override.format(data=Path(data).absolute()) for override in (*LIKE_OURS, *workflow.files)]
    with tempfile.TemporaryDirectory(prefix="tuneserve-bench-") as folder:
        overrides = [base, *given, *write_splits(load_recipe(path, [base, *given]), Path(folder), rows, test_rows)]
        recipe = load_recipe(path, overrides)
        theirs = _their_way(recipe, seeds, Path(folder))
        same = _our_way(path, overrides, theirs.num_configurations, seeds, texts=None)
        full = _our_way(path, overrides, recipe.search.num_trials, seeds, texts=_texts(recipe))
    return theirs, same, full


def write_splits(recipe: Recipe, folder: Path, rows: int | None, test_rows: int) -> list[str]:
    """Writes the splits, thinned to so many rows, as three files, and says which by overrides."""
    splits = load_splits(recipe.data)
    cuts: dict[str, int | None] = {"train": None, "validation": None, "test": test_rows}
    if rows is not None:
        num_validation = round(rows * recipe.data.split.validation)
        cuts |= {"train": rows - num_validation, "validation": num_validation}
    overrides = []
    for split, cut in cuts.items():
        table = _some(splits[split], cut)
        pyarrow.parquet.write_table(table, folder / f"{split}.parquet")
        overrides.append(f"data.{'source' if split == 'train' else f'{split}_source'}={folder}/{split}.parquet")
        say(f"  {split}: {table.num_rows:,} rows")
    return overrides


def _some(rows: pa.Table, number: int | None) -> pa.Table:
    """So many rows, drawn by their texts' hashes: files may be sorted by label."""
    drawn = np.argsort(text_hash64(rows["text"].to_pylist(), seed=0), kind="stable")[:number]
    return rows.take(np.sort(drawn))


def _texts(recipe: Recipe) -> list[str]:
    found: list[str] = load_splits(recipe.data).test["text"].to_pylist()[:MAX_TEXTS]
    return found


def _their_way(recipe: Recipe, seeds: int, folder: Path) -> Way:
    points = recipe.search.warm_start
    assert isinstance(points, tuple), "a shipped recipe lists them"
    with contest(recipe, None, torch.get_num_threads()) as both:
        started = time.perf_counter()
        tried = []
        for number, point in enumerate(points):
            tried.append(_their_training(both, point, 0, folder / f"theirs-{number}"))
            say(f"  theirs, {dict(point)}: {tried[-1]}")
        seconds = time.perf_counter() - started
        best = max(range(len(points)), key=lambda number: getattr(tried[number], recipe.search.metric))
        say(f"  theirs: {len(points)} configurations in {seconds:.0f} s")
        scores = [tried[best]]
        for seed in range(1, seeds):
            scores.append(_their_training(both, points[best], seed, None))
            say(f"  theirs, the best with seed {seed}: {scores[-1]}")
        wake_s, per_s = _pipeline(folder / f"theirs-{best}", _texts(recipe))
    return Way(len(points), tuple(scores), (seconds,), wake_s, per_s)


def _their_training(both: Contest, point: Mapping[str, Any], seed: int, keep: Path | None) -> Scores:
    """Trains one configuration; the model is kept in that folder, with adapters merged."""
    mine = replace(both, recipe=both.recipe.with_params(point))
    torch.set_num_threads(both.num_threads)
    with tempfile.TemporaryDirectory() as scratch, quiet():
        trainer = tutorial_trainer(mine, scratch, seed, point, trained_on=("train", "validation"), scored_on="test")
        trainer.train()
        metrics = trainer.evaluate()
        if keep is not None:
            model: Any = trainer.model
            model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
            model.save_pretrained(keep)
            transformers.AutoTokenizer.from_pretrained(local_base_model(both.prepared)).save_pretrained(keep)
    return Scores(metrics["eval_accuracy"], metrics["eval_macro_f1"])


def _pipeline(folder: Path, texts: Sequence[str]) -> tuple[float, float]:
    """Seconds from the start of a process to its first answer, and its answers a second from there."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "scripts.plain_pipeline", str(folder), str(SERVED_S)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=PROJECT_ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        json.dump(list(texts), process.stdin)
        process.stdin.close()
        process.stdout.readline()
        wake_s = time.perf_counter() - started
        per_s = int(process.stdout.readline()) / SERVED_S
    say(f"  theirs: first answer of a new process after {wake_s:.1f} s, then {per_s:.0f} texts/s")
    return wake_s, per_s


def _our_way(recipe: str, overrides: Sequence[str], num_trials: int, seeds: int, texts: Sequence[str] | None) -> Way:
    """With `texts` the endpoint of the last run is measured too."""
    scores: list[Scores] = []
    seconds: list[float] = []
    wake_s = per_s = 0.0
    for seed in range(seeds):
        changes = [f"search.num_trials={num_trials}", f"train.seed={seed}", f"search.seed={seed}"]
        with _own_cluster() as command:
            started = time.perf_counter()
            command("up", "--port", str(free_port()))
            result = command("run", recipe, *overrides, *changes, *SMALL)
            seconds.append(time.perf_counter() - started)
            metrics = result["promote"]["metrics"]
            scores.append(Scores(metrics["accuracy"], metrics["macro_f1"]))
            best = {name: round(value, 6) for name, value in result["sweep"]["best"]["params"].items()}
            say(f"  ours, {num_trials} trials, seed {seed}: {seconds[-1]:.0f} s, {scores[-1]}; {best}")
            if texts is not None and seed == seeds - 1:
                wake_s, per_s = _endpoint(result["deploy"]["url"], texts)
    return Way(num_trials, tuple(scores), tuple(seconds), wake_s, per_s)


@contextmanager
def _own_cluster() -> Iterator[Any]:
    """A function that runs a command and returns its JSON; its cluster, home and storage vanish in the end."""
    with tempfile.TemporaryDirectory(prefix="tuneserve-bench-") as folder:
        environment = {**os.environ, "TUNESERVE_HOME": f"{folder}/home", "TUNESERVE_STORAGE": f"{folder}/storage"}

        def command(*arguments: str) -> Any:
            done = subprocess.run(
                [sys.executable, "-m", "scripts.cli", *arguments, "--json"],
                cwd=PROJECT_ROOT,
                env=environment,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise TuneserveError(f"tuneserve {' '.join(arguments)} failed: {done.stderr[-2000:]}")
            return json.loads(done.stdout)

        try:
            yield command
        finally:
            command("down")


def _endpoint(url: str, texts: Sequence[str]) -> tuple[float, float]:
    """Median seconds of an answer from no replica, and answers a second to one text each."""
    wakes = []
    for number in range(NUM_WAKES):
        wait(url, "asleep")
        wakes.append(ask(url, texts[number % len(texts)]))
        wait(url, "awake")
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    under_load = load(f"{url}/classify", bodies, connections=CONNECTIONS, seconds=SERVED_S)
    say(f"  ours: wake {median(wakes):.3f} s; {CONNECTIONS} connections: {under_load}")
    return median(wakes), under_load.per_s


def figures(key: str, theirs: Way, same: Way, full: Way) -> list[Figure]:
    """Ours beside theirs; accuracies are means over the seeds."""

    def mean(way: Way, metric: str) -> float:
        return fmean(getattr(scores, metric) for scores in way.scores)

    found = []
    for metric in ("accuracy", "macro_f1"):
        for name, way in (("same", same), ("full", full)):
            found.append(Figure(f"{key}_{metric}_{name}", mean(way, metric), "fraction", mean(theirs, metric)))
            difference, error = mean(way, metric) - mean(theirs, metric), _standard_error(theirs, way, metric)
            say(f"  {key}: {metric} of ours ({name}) {difference:+.4f}, standard error over seeds {error:.4f}")
    their_s = fmean(theirs.seconds)
    return [
        *found,
        Figure(f"{key}_configurations", full.num_configurations, "trials", theirs.num_configurations),
        Figure(f"{key}_seconds_same", fmean(same.seconds), "s", their_s, more_is_better=False),
        Figure(f"{key}_seconds_full", fmean(full.seconds), "s", their_s, more_is_better=False),
        Figure(
            f"{key}_seconds_a_configuration",
            fmean(full.seconds) / full.num_configurations,
            "s",
            their_s / theirs.num_configurations,
            more_is_better=False,
        ),
        Figure(f"{key}_wake_s", full.wake_s, "s", theirs.wake_s, more_is_better=False),
        Figure(f"{key}_requests_per_s", full.requests_per_s, "requests/s", theirs.requests_per_s),
    ]


def _standard_error(first: Way, second: Way, metric: str) -> float:
    """Of the difference of two means over seeds; NaN for a single seed."""
    values = [[getattr(scores, metric) for scores in way.scores] for way in (first, second)]
    if min(map(len, values)) < 2:
        return float("nan")
    return float(sum(stdev(each) ** 2 / len(each) for each in values) ** 0.5)


if __name__ == "__main__":
    main()
