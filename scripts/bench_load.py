"""How an endpoint follows a load that rises and falls: from no replica to several and back to none.

    python -m scripts.bench_load recipes/quickstart.yaml --png load.png
    python -m scripts.bench_load recipes/sms_spam.yaml data.source=PATH/all.csv data.text_column=text \\
        model.base=PATH/minilm --png load.png

The recipe is trained for one epoch, promoted and deployed on a cluster of its own with up to three replicas. Then the
number of connections, each with one request of eight texts open, rises in steps and falls again; at last nobody asks.
Each half second the endpoint's health tells how many replicas answer, which wakes none.
"""

import json
from pathlib import Path

import click

from scripts.benchmark import Figure, run
from scripts.display import say, step
from scripts.load_figure import SPAN_S, write_figure
from scripts.served import Served, served
from scripts.varying_load import Course, Stage, varying_load

CONNECTIONS = (1, 4, 16, 48, 48, 48, 16, 4, 1)
TEXTS_PER_REQUEST = 8
DELAY_S = 10
ASLEEP_WITHIN_S = 90.0
SETTINGS = (f"serve.downscale_to_zero_delay_s={DELAY_S}", "serve.max_queued_requests=1024", "serve.max_replicas=3")


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("--stage-s", default=12.0, show_default=True, help="Seconds of each step of the load.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Where the figure goes.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(recipe: str, overrides: tuple[str, ...], stage_s: float, png: Path | None, as_json: bool) -> None:
    """Measures an endpoint under a rising and falling load."""

    def measure() -> list[Figure]:
        with served(recipe, [*SETTINGS, *overrides]) as endpoint:
            course = _measure(endpoint, stage_s)
        if png is not None:
            write_figure(course, png, f"{endpoint.job.recipe.name}: {TEXTS_PER_REQUEST} texts a request")
            say(f"  drawn in {png}")
        return _figures(course)

    run(measure, as_json=as_json)


def _measure(endpoint: Served, stage_s: float) -> Course:
    step(f"{endpoint.url}: {', '.join(map(str, CONNECTIONS))} connections, {stage_s:g} s each")
    texts = endpoint.texts
    requests = [texts[start : start + TEXTS_PER_REQUEST] for start in range(0, len(texts), TEXTS_PER_REQUEST)]
    bodies = [json.dumps({"texts": request}).encode() for request in requests if len(request) == TEXTS_PER_REQUEST]
    stages = [Stage(connections, stage_s) for connections in CONNECTIONS]
    course = varying_load(endpoint.url, bodies, stages, asleep_within_s=ASLEEP_WITHIN_S)
    for middle, per_s in zip(*course.per_s(stage_s), strict=True):
        replicas = [look.replicas for look in course.looks if abs(look.at_s - middle) <= stage_s / 2]
        bounds = f"{min(replicas, default=0)} to {max(replicas, default=0)} replicas"
        say(f"  {middle:5.0f} s  {per_s:7.1f} requests/s  {bounds}")
    return course


def _figures(course: Course) -> list[Figure]:
    _, per_s = course.per_s(SPAN_S)
    figures = [
        Figure("load_failed", course.num_failed(), "requests", more_is_better=False),
        Figure("load_peak_rps", max(per_s), "requests/s"),
        Figure("load_most_replicas", max(look.replicas for look in course.looks), "replicas"),
    ]
    times = {"load_second_replica_s": course.first_s(2), "load_asleep_after_s": course.asleep_after_s()}
    return figures + [Figure(name, at_s, "s", more_is_better=False) for name, at_s in times.items() if at_s is not None]


if __name__ == "__main__":
    main()
