"""The steps up to the registry: each takes a job, shows what it does and returns the command's JSON result."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from common.cluster import connect, resources
from common.data_checks import examine
from common.dataset import Splits
from common.errors import DataError, InputError
from common.head_labels import keeps_head
from common.location import join
from common.pinned_data import load_pinned_splits
from common.provenance import provenance_tags
from common.recipe import Recipe, Train
from common.registry import CANDIDATE_ALIAS
from common.storage import folders_in, read_json, write_json
from common.system_metrics import system_metrics
from common.tokenised import PreparedData, prepare, token_lengths
from common.wandb_runs import refuse_unusable_wandb
from scripts.display import console, epoch_line, leaderboard_table, say, show_findings, step
from scripts.job import STARTED_FILE, Job
from scripts.plan import make_plan, refuse_what_cannot_fit
from scripts.sweep_view import Outlook, SweepView
from scripts.training_log import TrainingLog
from scripts.wandb_tracking import wandb_tracking
from scripts.warm_start import starting_points

if TYPE_CHECKING:
    from tune.study import TrialRecord

Result = dict[str, Any]


def check(job: Job, *, measure: bool = False) -> Result:
    """Examines the data and shows the plan, with `measure` its cost too; trains and writes nothing.

    Raises:
        DataError: when the data cannot be learned from.
        ClusterError: when the cluster is too small.
    """
    recipe = job.recipe
    refuse_unusable_wandb(recipe.tracking.wandb)
    points = starting_points(job)
    step(f"Data: {recipe.data.source}")
    splits = load_pinned_splits(recipe.data, job.storage)
    rows = {name: splits[name].num_rows for name in ("train", "validation", "test")}
    say(f"  {rows['train']:,} training, {rows['validation']:,} validation, {rows['test']:,} test rows")
    counts = _label_counts(splits)
    say("  labels: " + ", ".join(f"{label} {count:,}" for label, count in counts.items()))
    say(f"  digest of the rows, which pins them: data.sha256={splits.digest}")
    findings = examine(splits, token_lengths(recipe, splits), recipe.model.max_length)
    show_findings(findings)
    own_head = _refuse_unfit_model(recipe, splits)
    say("  head: " + ("the base model's own, its outputs found by name" if own_head else "new"))
    plan = make_plan(job, splits, points, measure=measure)
    return {
        "rows": rows,
        "labels": counts,
        "data_sha256": splits.digest,
        "findings": [asdict(finding) for finding in findings],
        "plan": plan,
    }


def refuse_errors(job: Job, checked: Result) -> None:
    """Raises `DataError` when the examination found what makes every score meaningless."""
    errors = [finding for finding in checked["findings"] if finding["severity"] == "error"]
    if errors:
        raise DataError(f"{job.recipe.data.source}: {errors[0]['message']}; {errors[0]['advice']}")


def train(job: Job) -> Result:
    """One fine-tuning with Ray Train, recorded in MLflow and ready to be promoted; continues an interrupted one."""
    with job.exclusively():
        return _train(job)


def _train(job: Job) -> Result:
    from common.tracking import Tracker
    from tune.allocation import allocate
    from tune.trainer import fit

    recipe = job.recipe
    refuse_unusable_wandb(recipe.tracking.wandb)
    splits = load_pinned_splits(recipe.data, job.storage)
    _refuse_unfit_model(recipe, splits)
    tracker = Tracker.open(job.tracking_uri, recipe.experiment)
    with connect() as connection:
        allocation = allocate(recipe.train, resources())
        prepared = prepare(recipe, splits, job.storage)
        key = job.sweep_key(prepared.data_digest)
        interrupted = job.interrupted_training(key)
        run = interrupted or job.new_run("train")
        folder = join(job.runs, run)
        verb = "Continuing" if interrupted else "Training"
        step(f"{verb} {run} on {allocation.num_workers} worker(s)" + _where(connection.is_private))
        if interrupted:
            run_id = read_json(join(folder, STARTED_FILE))["run_id"]
            tracker.reopen(run_id)
        else:
            dataset = _dataset_input(recipe, prepared)
            tags = provenance_tags(prepared.data_digest, splits.versions, asdict(allocation))
            run_id = tracker.start(
                run, params=_params(recipe.train), tags=tags, recipe_yaml=job.recipe_yaml, dataset=dataset
            )
            job.note_start(run, key=key, run_id=run_id)

        with (
            wandb_tracking(job, run, "train", prepared.data_digest) as wandb,
            _finishing(tracker, run_id),
            system_metrics(tracker, run_id) if recipe.tracking.system_metrics else nullcontext(),
        ):
            log = TrainingLog(tracker, run_id, wandb, is_continued=bool(interrupted))
            outcome = fit(
                prepared,
                recipe.train,
                metric=recipe.search.metric,
                run_name=run,
                storage_path=join(folder, "train"),
                cpus_per_worker=allocation.cpus_per_worker,
                use_gpu=allocation.use_gpu,
                on_report=log.epoch,
                lora=recipe.model.lora,
            )
    result = {
        "metrics": outcome.metrics,
        "samples_per_s": outcome.metrics["samples_per_s"],
        "tokens_per_s": outcome.metrics["tokens_per_s"],
        "seconds": outcome.seconds,
        "run_id": run_id,
        **wandb.result,
    }
    best = {"params": {}, "metrics": outcome.metrics, "run_id": run_id, "checkpoint": outcome.checkpoint}
    _write_run(job, folder, {**result, "train_id": run, "best": best}, prepared)
    say(f"  best epoch {int(outcome.metrics['epoch'])}: " + epoch_line(outcome.metrics))
    return result


def sweep(job: Job, *, resume: bool = False, sweep_id: str | None = None) -> Result:
    """The search; `resume` continues this recipe's newest interrupted sweep, `sweep_id` that one."""
    with job.exclusively():
        if resume:
            sweep_id = job.interrupted_sweep()
        return _sweep(job, sweep_id or job.new_run("sweep"))


def _sweep(job: Job, sweep_id: str) -> Result:
    from common.tracking import Tracker
    from tune.allocation import allocate
    from tune.scheduler import rungs
    from tune.sweep import sweep as run_sweep

    recipe = job.recipe
    refuse_unusable_wandb(recipe.tracking.wandb)
    folder = join(job.runs, sweep_id)
    points = starting_points(job)
    splits = load_pinned_splits(recipe.data, job.storage)
    _refuse_unfit_model(recipe, splits)
    tracker = Tracker.open(job.tracking_uri, recipe.experiment)
    with connect() as connection:
        allocation = allocate(recipe.train, resources(), recipe.search)
        if not folders_in(folder):  # what was begun may be finished
            refuse_what_cannot_fit(job, splits, allocation)
        prepared = prepare(recipe, splits, job.storage)
        job.note_start(sweep_id)
        step(f"Sweep {sweep_id}: {allocation.max_concurrent} trials at once" + _where(connection.is_private))
        with (
            wandb_tracking(job, sweep_id, "sweep", prepared.data_digest) as wandb,
            SweepView(Outlook.of(recipe, rungs(recipe))) as view,
        ):
            outcome = run_sweep(
                recipe,
                prepared,
                sweep_id=sweep_id,
                folder=folder,
                allocation=allocation,
                tracker=tracker,
                recipe_yaml=job.recipe_yaml,
                on_update=view.update,
                points=points,
                wandb=wandb.runs,
                tags=provenance_tags(prepared.data_digest, splits.versions, asdict(allocation)),
            )
    step(f"Leaderboard (validation {recipe.search.metric}, {outcome.seconds:.0f} s)")
    console.print(leaderboard_table(outcome.trials, recipe.search.metric))
    best = outcome.best
    if recipe.search.confirm is not None:
        say(_confirmation_line(outcome.trials[0], best))
    result = {
        "sweep_id": sweep_id,
        "trials": [asdict(trial) for trial in outcome.trials],
        "confirm_runs": [asdict(run) for run in outcome.confirm_runs],
        "best": {
            "params": best.settings,
            "metrics": best.metrics,
            "run_id": best.run_id,
            "checkpoint": best.checkpoint,
        },
        "seconds": outcome.seconds,
        **wandb.result,
    }
    _write_run(job, folder, result, prepared)
    return result


def promote(job: Job, run: Result | None = None, *, as_candidate: bool = False) -> Result:
    """Scores the newest finished sweep or training on the test split, registers it, and moves the alias by the gate.

    With `as_candidate` that is the alias `candidate`, and the champion stays.
    """
    alias = job.recipe.registry.alias
    if as_candidate and alias == CANDIDATE_ALIAS:
        raise InputError(f"--as-candidate: registry.alias is {alias!r} itself; give the champion another alias")
    with job.exclusively():
        return _promote(job, run, CANDIDATE_ALIAS if as_candidate else alias)


def _promote(job: Job, run: Result | None, alias: str) -> Result:
    from common.tracking import Tracker
    from tune.promote import promote as run_promotion

    if run is None:
        finished = job.finished_runs()
        if not finished:
            raise InputError(
                f"nothing to promote: {job.runs} holds no finished sweep or training of {job.recipe.name!r}; run "
                "`tuneserve sweep` or `tuneserve train` with this recipe first"
            )
        run = finished[-1]
    tracker = Tracker.open(job.tracking_uri, job.recipe.experiment)
    recipe = _winning_recipe(job.recipe, run)
    step(f"Promotion of {run.get('sweep_id') or run['train_id']}")
    outcome = run_promotion(
        recipe,
        PreparedData.load(run["prepared_uri"]),
        checkpoint=run["best"]["checkpoint"],
        tracker=tracker,
        run_id=run["best"]["run_id"],
        recipe_yaml=Job(recipe, job.storage, job.tracking_uri).recipe_yaml,
        storage=job.storage,
        alias=alias,
    )
    _show_promotion(outcome.model, outcome.version, outcome.promoted, outcome.metrics, outcome.gate, alias)
    return {**asdict(outcome), "alias": alias}


def prepare_data(job: Job) -> PreparedData:
    """The recipe's data, read, split and tokenised; nothing is done twice for the same rows."""
    return prepare(job.recipe, load_pinned_splits(job.recipe.data, job.storage), job.storage)


def _label_counts(splits: Splits) -> dict[str, int]:
    counts = splits.train["label"].value_counts().to_pylist()
    by_label = {entry["values"]: entry["counts"] for entry in counts}
    return {label: by_label[label] for label in splits.labels}


def _params(settings: Train) -> Result:
    document = settings.model_dump(mode="json", exclude_none=True)
    workers = document.pop("num_workers")
    return {**document, "num_workers": workers["max"]}


def _dataset_input(recipe: Recipe, prepared: PreparedData) -> Any:
    from common.tracking import DatasetInput

    return DatasetInput(recipe.name, prepared.data_digest, recipe.data.source, prepared.num_rows)


@contextmanager
def _finishing(tracker: Any, run_id: str) -> Iterator[None]:
    """Ends an MLflow run as what happens inside says."""
    try:
        yield
    except KeyboardInterrupt:
        tracker.finish(run_id, "KILLED")
        raise
    except BaseException:
        tracker.finish(run_id, "FAILED")
        raise
    tracker.finish(run_id)


def _write_run(job: Job, folder: str, result: Result, prepared: PreparedData) -> None:
    record = {
        "name": job.recipe.name,
        "recipe": job.recipe.model_dump(mode="json", by_alias=True, exclude_none=True),
        "prepared_uri": prepared.uri,
        "num_trials": job.recipe.search.num_trials,
        "finished_at": time.time(),
    }
    write_json(join(folder, "result.json"), {**result, **record})


def _winning_recipe(recipe: Recipe, run: Result) -> Recipe:
    """What the winner was made with; how to register and serve it comes from the recipe at hand."""
    made_with = Recipe.model_validate(run["recipe"]).with_params(run["best"]["params"])
    return made_with.model_copy(update={"registry": recipe.registry, "serve": recipe.serve})


def _where(is_private: bool) -> str:
    return " (private cluster)" if is_private else ""


def _refuse_unfit_model(recipe: Recipe, splits: Splits) -> bool:
    """Raises `ModelError` when the base model's head has other labels, or lacks what adapters are to go beside.

    Returns whether training starts from the base model's own head.
    """
    own_head = keeps_head(recipe.model, splits.labels)
    if recipe.model.lora is not None:
        from tune.model_checks import refuse_unknown_modules

        refuse_unknown_modules(recipe, splits.train["text"].to_pylist(), len(splits.labels))
    return own_head


def _confirmation_line(winner: "TrialRecord", best: "TrialRecord") -> str:
    if winner.confirmation is None:
        return (
            "  not confirmed: of no configuration did all runs with fresh seeds finish; the best single trial wins. "
            "Raise search.time_budget_s, or see why the runs failed"
        )
    mean, num_seeds = winner.confirmation.mean, len(winner.confirmation.values)
    return (
        f"  confirmed: trial {winner.number}, mean {mean:.4f} over {num_seeds} fresh seed(s); its run nearest to that "
        f"(seed {best.seed}) is what is promoted"
    )


def _show_promotion(
    model: str, version: int, promoted: bool, metrics: dict[str, float], gate: Result, alias: str
) -> None:
    say(
        f"  test accuracy {metrics['accuracy']:.4f}, macro-F1 {metrics['macro_f1']:.4f} on {gate['rows']:,} rows "
        f"(this test split was used {gate['test_split_uses']} times before)"
    )
    if gate.get("champion") is not None:
        low, high = gate["interval"]
        say(
            f"  {gate['metric']}: candidate {gate['candidate']:.4f}, champion {gate['champion']:.4f}, difference "
            f"{gate['difference']:+.4f}, {gate['confidence']:.0%} interval [{low:+.4f}, {high:+.4f}]"
        )
    say(f"  registered {model} version {version}")
    say(f"  {alias} moved to version {version}: {gate['reason']}" if promoted else f"  {alias} stays: {gate['reason']}")
