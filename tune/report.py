"""The report of a sweep: one page that needs nothing else, and a PNG of every figure."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jinja2

from common.errors import DataError
from common.recipe_file import dump_recipe
from common.tokenised import PreparedData
from tune import figures
from tune.figure_style import Draw, Renderings, render
from tune.importance import Importances, parameter_importance
from tune.mistakes import Answers, validation_answers
from tune.parallel_coordinates import parallel_coordinates
from tune.scheduler import REDUCTION_FACTOR, rungs
from tune.stored_sweep import Missing, StoredSweep
from tune.study import TrialRecord, leaderboard

TEMPLATE = "report.html.j2"

METRIC_TITLES = {"accuracy": "Accuracy", "macro_f1": "Macro-F1", "loss": "Loss"}

NUM_MISTAKES = 10
NUM_CONFUSIONS = 10


@dataclass(frozen=True)
class Report:
    """A report, ready to be written."""

    page: str
    """HTML that loads nothing."""
    pngs: Mapping[str, bytes]
    """The figures, by name."""
    missing: Mapping[str, str]
    """Why a figure is not there, by its name."""


@dataclass(frozen=True)
class Plot:
    """A figure's place on the page."""

    name: str
    """Of its section and of its PNG."""
    title: str
    summary: str
    """What it shows, for those who do not see it."""
    drawn: Renderings | Missing


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard."""

    title: str
    cell: Callable[[TrialRecord], str]
    is_number: bool = True


def make_report(sweep: StoredSweep) -> Report:
    """Draws the sweep's figures, asks its winner about the validation split, and writes the page."""
    answers = _answers(sweep)
    importances = parameter_importance(sweep)
    plots = _plots(sweep, importances, answers)
    page = _template().render(
        sweep=sweep,
        ranked=leaderboard(sweep.trials, sweep.metric),
        columns=_columns(sweep),
        states=Counter(trial.state for trial in sweep.trials),
        seconds=sum(trial.history[-1]["seconds"] for trial in sweep.trials if trial.history),
        plots={plot.name: plot for plot in plots},
        rungs=rungs(sweep.recipe),
        reduction_factor=REDUCTION_FACTOR,
        max_epochs=sweep.recipe.max_epochs,
        importances=importances,
        answers=answers,
        mistakes=() if isinstance(answers, Missing) else answers.mistakes(NUM_MISTAKES),
        confusions=() if isinstance(answers, Missing) else answers.confusions(NUM_CONFUSIONS),
        prepared=_prepared(sweep),
        recipe_yaml=dump_recipe(sweep.recipe),
        made_at=time.strftime("%Y-%m-%d %H:%M"),
    )
    return Report(
        page,
        {plot.name: plot.drawn.png for plot in plots if isinstance(plot.drawn, Renderings)},
        {plot.name: plot.drawn.reason for plot in plots if isinstance(plot.drawn, Missing)},
    )


def _answers(sweep: StoredSweep) -> Answers | Missing:
    """The winner's, on the validation split."""
    if sweep.winner is None or sweep.winner.checkpoint is None:
        return Missing("no trial can be promoted, so there is no winner")
    return validation_answers(sweep.winner.checkpoint, sweep.prepared_uri, sweep.recipe.train.precision)


def _plots(sweep: StoredSweep, importances: Importances | Missing, answers: Answers | Missing) -> list[Plot]:
    """Every figure, drawn."""

    def plot(name: str, title: str, summary: str, draw: Draw | Missing) -> Plot:
        drawn = draw if isinstance(draw, Missing) else render(draw, f"{title}: {sweep.sweep_id}")
        return Plot(name, title, summary, drawn)

    def of_values(draw: Draw) -> Draw | Missing:
        return draw if sweep.valued() else Missing("no trial has a value")

    metric, best = sweep.metric, sweep.winner
    reached = f"; the best is {best.metrics[metric]:.4f}, trial {best.number}" if best else ""
    return [
        plot(
            "optimisation_history",
            "Optimisation history",
            f"Validation {metric} of {len(sweep.trials)} trials by number{reached}.",
            partial(figures.optimisation_history, sweep),
        ),
        plot(
            "learning_curves",
            "Learning curves",
            f"Validation {metric} of each trial by epoch{reached}.",
            partial(figures.learning_curves, sweep),
        ),
        plot(
            "parallel_coordinates",
            "Parallel coordinates",
            f"{', '.join(sweep.compared)} and validation {metric} of each trial{reached}.",
            of_values(partial(parallel_coordinates, sweep)),
        ),
        plot(
            "parameter_importance",
            "Parameter importance",
            "Each searched parameter's share of the differences between trials.",
            importances if isinstance(importances, Missing) else partial(figures.importance, importances),
        ),
        plot(
            "cost",
            f"{METRIC_TITLES[metric]} against cost",
            f"Validation {metric} of each trial against its training time and its epochs{reached}.",
            of_values(partial(figures.cost, sweep)),
        ),
        plot(
            "confusion_matrix",
            "Confusion matrix",
            "Validation rows by given and by predicted label.",
            answers if isinstance(answers, Missing) else partial(figures.confusion, answers),
        ),
    ]


def _columns(sweep: StoredSweep) -> list[Column]:
    """What the leaderboard says of a trial."""

    def of_params(name: str) -> Column:
        return Column(name, lambda trial: _number(trial.params[name]) if name in trial.params else "–")

    def of_metrics(name: str) -> Column:
        return Column(name, lambda trial: f"{trial.metrics[name]:.4f}" if name in trial.metrics else "–")

    def of_latest(title: str, key: str, spec: str) -> Column:
        return Column(title, lambda trial: format(trial.history[-1][key], spec) if trial.history else "–")

    others = [name for name in ("accuracy", "macro_f1", "loss") if name != sweep.metric]
    return [
        Column("trial", lambda trial: str(trial.number)),
        Column("state", lambda trial: f"{trial.state}: {trial.failure}" if trial.failure else trial.state, False),
        *(of_metrics(name) for name in (sweep.metric, *others)),
        Column("epoch", _best_of_epochs),
        *(of_params(name) for name in dict.fromkeys(name for trial in sweep.trials for name in trial.params)),
        of_latest("seconds", "seconds", ",.0f"),
        of_latest("tokens/s", "tokens_per_s", ",.0f"),
    ]


def _best_of_epochs(trial: TrialRecord) -> str:
    """The epoch that the metrics are of, and how many there were."""
    best = f"{trial.metrics['epoch']:.0f}" if trial.metrics else "–"
    return f"{best} of {trial.history[-1]['epoch']:.0f}" if trial.history else "–"


def _prepared(sweep: StoredSweep) -> PreparedData | Missing:
    try:
        return PreparedData.load(sweep.prepared_uri)
    except (DataError, OSError) as error:
        return Missing(str(error))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # labels, texts, reasons and paths are anybody's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    environment.filters |= {"number": _number, "duration": _duration}
    return environment.get_template(TEMPLATE)


def _number(value: float | str) -> str:
    """A parameter's value, fractions in at most four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    """For people: `42 s`, `12 min 5 s` or `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
