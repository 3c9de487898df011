"""The `tuneserve` command.

People's output goes to stderr; `--json` prints exactly one JSON object on stdout. Exit codes: 0 done, 1 the job failed,
2 the input was wrong, 130 interrupted. Heavy libraries are imported by the command that needs them.
"""

import functools
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import click

from common.errors import TuneserveError

Command = Callable[..., dict[str, Any]]

EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED = 1, 2, 130

JOB_COMMANDS = ("check", "train", "sweep", "promote", "deploy", "run", "predict", "rollback", "pool", "reproduce")
"""What can run as a Ray job."""

_PLACES = (
    click.option("--storage", metavar="PLACE", help="Folder or URL for data, checkpoints and results."),
    click.option("--mlflow-uri", metavar="URI", help="MLflow tracking URI."),
)
_RECIPE = (
    click.argument("recipe"),
    click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tuneserve")
def main() -> None:
    """Fine-tune text classifiers on a Ray cluster, search their hyperparameters, serve the winner from zero.

    RECIPE is a YAML file; KEY=VALUE changes a setting of it, for example train.epochs=1.
    Completion: eval "$(_TUNESERVE_COMPLETE=bash_source tuneserve)", or zsh_source, fish_source.
    """


def command(
    *decorators: Callable[[Any], Any],
    name: str | None = None,
    group: click.Group = main,
    resume_with: str | None = None,
    **settings: Any,
) -> Callable[[Command], click.Command]:
    """A subcommand whose function returns the JSON result; adds `--json`, exit codes and the handling of Ctrl-C.

    `resume_with` is what continues the command after an interruption. A function that found something wrong and still
    has a result leaves its exit code in the context's `obj`.
    """

    def decorate(function: Command) -> click.Command:
        @functools.wraps(function)
        def wrapped(*, as_json: bool, **arguments: Any) -> None:
            # Of a command that is submitted; and a schema is JSON in any case.
            as_json = as_json or "--json" in arguments.get("words", ()) or arguments.get("schema", False)
            with stdout_kept_free():
                result = guarded(functools.partial(function, **arguments), resume_with)
            if as_json:
                click.echo(json.dumps(result, ensure_ascii=False))
            sys.exit(click.get_current_context().obj or 0)

        decorated: Any = wrapped
        for decorator in reversed(
            (*decorators, click.option("--json", "as_json", is_flag=True, help="JSON on stdout."))
        ):
            decorated = decorator(decorated)
        return group.command(name=name, **settings)(decorated)

    return decorate


@contextmanager
def stdout_kept_free() -> Iterator[None]:
    """Sends what libraries and child processes print to stderr: the JSON result shall stand alone on stdout."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def guarded(function: Callable[[], dict[str, Any]], resume_with: str | None) -> dict[str, Any]:
    """The function's result; every failure becomes one message and an exit code."""
    for signum in (signal.SIGINT, signal.SIGTERM):  # a shell leaves SIGINT ignored in what it starts with `&`
        signal.signal(signum, _interrupt)
    try:
        return function()
    except TuneserveError as error:
        click.echo(f"tuneserve: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as interrupt:
        way_on = str(interrupt) or (resume_with and f"continue with: {_again(resume_with)}")
        click.echo("\ntuneserve: interrupted" + (f"; {way_on}" if way_on else ""), err=True)
        sys.exit(EXIT_INTERRUPTED)
    except ModuleNotFoundError as error:
        click.echo(f"tuneserve: {error}. Install what this command needs: scripts/install", err=True)
        sys.exit(EXIT_FAILED)
    except OSError as error:
        click.echo(f"tuneserve: {error}", err=True)
        sys.exit(EXIT_FAILED)
    except Exception as error:
        if os.environ.get("TUNESERVE_TRACEBACK"):
            raise
        lines = str(error).strip().splitlines() or [""]
        click.echo(f"tuneserve: unexpected {type(error).__name__}: {lines[0]}", err=True)
        click.echo("Set TUNESERVE_TRACEBACK=1 to see where, and report it.", err=True)
        sys.exit(EXIT_FAILED)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _again(resume_with: str) -> str:
    """The command line that continues this one."""
    rest = [argument for argument in sys.argv[2:] if argument != "--resume"]
    return shlex.join(["tuneserve", *resume_with.split(), *rest])


def _job(recipe: str, overrides: tuple[str, ...], storage: str | None, mlflow_uri: str | None) -> Any:
    from scripts.job import Job

    return Job.load(recipe, overrides, storage, mlflow_uri)


@command(
    *_PLACES,
    click.argument("cluster_yaml", required=False),
    click.option("--num-cpus", type=click.IntRange(min=1), help="CPUs to offer; all of this machine's by default."),
    click.option("--host", metavar="ADDRESS", help="Where the gateway listens (default 127.0.0.1)."),
    click.option("--port", type=click.IntRange(1, 65535), help="Gateway port (default 8000)."),
    click.option("--tls-cert", metavar="FILE", help="The gateway's certificate with its chain, PEM; then it is https."),
    click.option("--tls-key", metavar="FILE", help="The certificate's key, PEM, without a password."),
    click.option("--block", is_flag=True, help="Stay, and end the cluster with this command: for containers, systemd."),
)
def up(cluster_yaml: str | None, **options: Any) -> dict[str, Any]:
    """Start a local cluster that lives on, with the gateway for endpoints; with CLUSTER_YAML, `ray up` that one."""
    from scripts.serving import start_cluster

    return start_cluster(cluster_yaml, **options)


@command(click.argument("cluster_yaml", required=False))
def down(cluster_yaml: str | None) -> dict[str, Any]:
    """End the local cluster and everything on it; with CLUSTER_YAML, `ray down` that one."""
    from scripts.serving import end_cluster

    return end_cluster(cluster_yaml)


@command(
    *_RECIPE,
    *_PLACES,
    click.option("--measure", is_flag=True, help="Time a few real steps and say what the sweep will take."),
)
def check(measure: bool, **arguments: Any) -> dict[str, Any]:
    """Validate the recipe, examine the data, show the plan; trains nothing."""
    from scripts.steps import check

    result = check(_job(**arguments), measure=measure)
    if any(finding["severity"] == "error" for finding in result["findings"]):
        click.get_current_context().obj = EXIT_WRONG_INPUT
    return result


@command(*_RECIPE, *_PLACES, resume_with="train")
def train(**arguments: Any) -> dict[str, Any]:
    """One fine-tuning with Ray Train."""
    from scripts.steps import train

    return train(_job(**arguments))


@command(
    *_RECIPE,
    *_PLACES,
    click.option("--resume", is_flag=True, help="Continue the newest interrupted sweep of this recipe."),
    resume_with="sweep --resume",
)
def sweep(resume: bool, **arguments: Any) -> dict[str, Any]:
    """Search the hyperparameters with Ray Tune and Optuna."""
    from scripts.steps import sweep

    return sweep(_job(**arguments), resume=resume)


@command(
    click.argument("sweep"),
    click.option("--out", metavar="FOLDER", help="Where to write it; beside the sweep's trials by default."),
    _PLACES[0],
)
def report(sweep: str, out: str | None, storage: str | None) -> dict[str, Any]:
    """Write a page about SWEEP, finished or not: its figures, its winner and where that errs.

    SWEEP is an id as `tuneserve status` prints it, the beginning of one, or a recipe's name for its newest sweep.
    """
    from scripts.reporting import report

    return report(sweep, storage=storage, out=out)


@command(
    *_RECIPE,
    *_PLACES,
    click.option(
        "--as-candidate", is_flag=True, help="Set the alias `candidate`, for `deploy --canary`, and not the champion's."
    ),
    resume_with="promote",
)
def promote(as_candidate: bool, **arguments: Any) -> dict[str, Any]:
    """Gate, export and register the newest finished sweep or training; move the alias."""
    from scripts.steps import promote

    return promote(_job(**arguments), as_candidate=as_candidate)


@command(
    *_RECIPE,
    *_PLACES,
    click.option("--canary", type=int, metavar="PERCENT", help="A candidate answers this share, 1 to 50."),
    click.option(
        "--shadow",
        type=int,
        is_flag=False,
        flag_value=10,
        metavar="[PERCENT]",
        help="A candidate is asked this share too (10), 1 to 100, and answers nobody.",
    ),
    click.option("--candidate", metavar="VERSION|ALIAS", help="Which version that is (default: alias candidate)."),
    click.option("--min-requests", type=int, metavar="N", help="Compared requests that decide (default 200)."),
    click.option("--min-agreement", type=float, metavar="SHARE", help="Of the labels, to pass (default 0.8)."),
    resume_with="deploy",
)
def deploy(
    canary: int | None,
    shadow: int | None,
    candidate: str | None,
    min_requests: int | None,
    min_agreement: float | None,
    **arguments: Any,
) -> dict[str, Any]:
    """Serve the champion from an endpoint that scales to zero; with --canary or --shadow, try a candidate beside it."""
    from scripts.canary import canary_of
    from scripts.serving import deploy

    job = _job(**arguments)
    plan = canary_of(
        job,
        canary=canary,
        shadow=shadow,
        candidate=candidate,
        min_requests=min_requests,
        min_agreement=min_agreement,
    )
    return deploy(job, plan)


@command(*_RECIPE, *_PLACES, resume_with="run")
def run(**arguments: Any) -> dict[str, Any]:
    """All of it: check, sweep, promote, deploy. Finished steps are not repeated."""
    from scripts.line import run

    return run(_job(**arguments))


@command(click.argument("run_id", metavar="RUN"), *_PLACES)
def reproduce(run_id: str, **places: Any) -> dict[str, Any]:
    """Train the MLflow run RUN, of a training or a trial, again, and say whether its metrics are the same.

    Exit code 0: exactly, or within tolerance; 1: not; 2: it cannot be trained again, as when its data changed.
    """
    from scripts.reproduction import NO, reproduce

    result = reproduce(run_id, **places)
    if result["match"] == NO:
        click.get_current_context().obj = EXIT_FAILED
    return result


@command(
    click.argument("target", metavar="RECIPE|URI"),
    click.argument("texts", nargs=-1, metavar="[TEXT|KEY=VALUE]..."),
    *_PLACES,
    click.option("--file", "file", metavar="FILE", help="A .csv or .parquet file of texts, a path or a URL."),
    click.option(
        "--out",
        metavar="FILE",
        help="Where its rows and their predictions go (.parquet or .csv).",
    ),
    click.option("--text-column", metavar="NAME", help="The file's column of texts (default: the recipe's, or text)."),
)
def predict(**arguments: Any) -> dict[str, Any]:
    """Classify TEXTs or a file with a recipe's champion, models:/NAME@ALIAS or models:/NAME/VERSION."""
    from scripts.prediction import predict

    return predict(**arguments)


_SINCE = click.option(
    "--since", metavar="WHEN", default="24h", show_default=True, help="7d, 1h, 30m, 10s ago, or a date or time (UTC)."
)


@command(
    click.argument("name"),
    _SINCE,
    click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Texts to show."),
    click.option("--label", metavar="LABEL", help="Only texts that were given this label."),
    _PLACES[0],
)
def requests(name: str, **options: Any) -> dict[str, Any]:
    """Show what the endpoint NAME was asked and answered, from its request log."""
    from scripts.logged_requests import requests

    return requests(name, **options)


@command(
    click.argument("name"),
    click.option("--version", type=click.IntRange(min=1), help="The candidate's version."),
    click.option("--alias", metavar="ALIAS", help="The candidate's alias."),
    _SINCE,
    click.option("--limit", type=click.IntRange(min=1), default=10_000, show_default=True, help="Newest texts only."),
    click.option("--out", metavar="FILE", help="Where to write all texts with both answers (Parquet)."),
    *_PLACES,
)
def replay(name: str, **options: Any) -> dict[str, Any]:
    """Score what the endpoint NAME was asked with a candidate, and list where it answers otherwise."""
    from scripts.replay import replay

    return replay(name, **options)


@command(click.argument("name"), click.option("--alias", default="champion", show_default=True), *_PLACES)
def rollback(name: str, alias: str, storage: str | None, mlflow_uri: str | None) -> dict[str, Any]:
    """Move a registered model's alias back one version; the endpoint follows."""
    from scripts.serving import roll_back

    return roll_back(name, alias=alias, storage=storage, mlflow_uri=mlflow_uri)


@command(
    click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND..."),
    click.option("--address", metavar="URL", help="The cluster's dashboard; by default the local cluster's."),
    click.option("--submission-id", metavar="ID", help="The job's name; refused when it exists."),
    click.option("--no-wait", is_flag=True, help="Do not follow the log."),
    *_PLACES,
)
def submit(**arguments: Any) -> dict[str, Any]:
    """Run one of these commands as a Ray job; follows its log and exits with its result."""
    from scripts.ray_jobs import submit

    as_json = bool(click.get_current_context().params["as_json"])
    return submit(**arguments, commands=JOB_COMMANDS, as_json=as_json)


_ADDRESS = click.option("--address", metavar="URL", help="The cluster's dashboard; by default the local cluster's.")


@command(_ADDRESS)
def jobs(address: str | None) -> dict[str, Any]:
    """List the cluster's jobs."""
    from scripts.ray_jobs import list_jobs

    return list_jobs(address)


@command(click.argument("job_id"), click.option("--follow", is_flag=True, help="Until the job ends."), _ADDRESS)
def logs(job_id: str, follow: bool, address: str | None) -> dict[str, Any]:
    """Print a job's log."""
    from scripts.ray_jobs import show_logs

    return show_logs(job_id, follow=follow, address=address)


@command(click.argument("job_id"), _ADDRESS)
def stop(job_id: str, address: str | None) -> dict[str, Any]:
    """Stop a job."""
    from scripts.ray_jobs import stop_job

    return stop_job(job_id, address)


@command(click.option("--schema", is_flag=True, help="The recipe's JSON Schema, for editors, on stdout."))
def recipes(schema: bool) -> dict[str, Any]:
    """List the recipes that ship with tuneserve."""
    from common.recipe import Recipe
    from common.recipe_file import shipped_recipes

    if schema:
        return Recipe.model_json_schema()
    shipped = {name: {"path": str(path), "purpose": _purpose(path)} for name, path in shipped_recipes().items()}
    for entry in shipped.values():
        click.echo(f"{entry['path']}\n    {entry['purpose']}", err=True)
    return {"recipes": shipped}


def _purpose(path: Path) -> str:
    """The sentence that a recipe opens with."""
    words = []
    for line in path.read_text("utf-8").splitlines():
        text = line.lstrip("# ").strip()
        if not line.startswith("#") or not text:
            break
        words.append(text)
    return " ".join(words)


@command(_PLACES[0], click.option("--all", "everyone", is_flag=True, help="Everyone's sweeps and trainings."))
def status(storage: str | None, everyone: bool) -> dict[str, Any]:
    """What runs: the cluster, your sweeps and trainings, the endpoints."""
    from scripts.serving import status

    return status(storage=storage, everyone=everyone)


@command(
    *_PLACES,
    click.option("--max-replicas", type=click.IntRange(min=1), help="Replicas under load (default 2)."),
    click.option(
        "--memory-gb", type=click.FloatRange(min=0, min_open=True), help="Loaded models in each replica (default 2)."
    ),
    click.option(
        "--downscale-to-zero-delay-s",
        type=click.FloatRange(min=0),
        help="Idle time after which the last replica goes (default 300).",
    ),
)
def pool(**arguments: Any) -> dict[str, Any]:
    """Show the shared pool of replicas, or set what bounds it: for endpoints with serve.pool=shared."""
    from scripts.pooling import show_or_bound

    return show_or_bound(**arguments)


@main.group()
def keys() -> None:
    """API keys of the gateway: make, list and revoke them, on the machine that it runs on."""


@command(
    click.argument("name"),
    click.option("--endpoint", "endpoints", multiple=True, metavar="NAME", help="Opens this one; repeatable."),
    click.option("--expires", metavar="WHEN", help="A date (2027-01-31), or a time from now: 90d, 12h, 30m."),
    name="create",
    group=keys,
)
def create_key(name: str, endpoints: tuple[str, ...], expires: str | None) -> dict[str, Any]:
    """Make an API key and print it, this once. It opens all endpoints unless some are named."""
    from scripts.keys import create

    return create(name, endpoints, expires)


@command(name="list", group=keys)
def list_keys() -> dict[str, Any]:
    """List the API keys; none of them can be shown again."""
    from scripts.keys import show

    return show()


@command(click.argument("name"), name="revoke", group=keys)
def revoke_key(name: str) -> dict[str, Any]:
    """Forget an API key: running gateways refuse it within two seconds."""
    from scripts.keys import revoke

    return revoke(name)


if __name__ == "__main__":
    main()
