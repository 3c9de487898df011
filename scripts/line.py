"""The whole line in one command, resumable step by step."""

from common.cluster import in_job
from common.errors import PromotionError, RegistryError, TrainingError
from common.location import join
from common.registry import ModelRegistry
from common.storage import read_json, write_json
from common.tracking import Tracker
from scripts.display import step
from scripts.job import Job
from scripts.serving import deploy, up_gateway
from scripts.steps import Result, check, prepare_data, promote, refuse_errors, sweep


def run(job: Job) -> Result:
    """The whole line. Each step that finished for this recipe and data before is recognised and not repeated.

    Raises:
        DataError: when the data examination found an error.
        PromotionError: when the candidate did not pass the gate and there is no champion to serve instead.
    """
    with job.exclusively():
        checked = check(job)
        refuse_errors(job, checked)
        Tracker.open(job.tracking_uri, job.recipe.experiment)  # before anything is started or written
        if not in_job():
            up_gateway(job.storage, job.tracking_uri)
        path = join(job.runs, f"{job.recipe.name}.{job.sweep_key(prepare_data(job).data_digest)}.json")
        done: Result = read_json(path) or {"sweep_id": job.new_run("sweep")}
        write_json(path, done)
        swept = _swept(job, done["sweep_id"], path)
        key = job.promotion_key(swept)
        if done.get("promotion_key") == key:
            step(f"Version {done['promotion']['version']} is registered already")
        else:
            done |= {"promotion": promote(job, swept), "promotion_key": key}
            write_json(path, done)
        _require_champion(job, done["promotion"])
        deployed = deploy(job)
        shown = {name: swept[name] for name in ("sweep_id", "trials", "best", "seconds")}
        return {"check": checked, "sweep": shown, "promote": done["promotion"], "deploy": deployed}


def _swept(job: Job, sweep_id: str, path: str) -> Result:
    """The sweep's stored result; runs what is missing of it."""
    stored = join(job.runs, sweep_id, "result.json")
    result = read_json(stored)
    if result is not None and _is_enough(result, job):
        step(f"Sweep {sweep_id} is finished already")
        return dict(result)
    try:
        sweep(job, sweep_id=sweep_id)
    except TrainingError:
        write_json(path, {"sweep_id": job.new_run("sweep")})  # or the next run would find all trials failed again
        raise
    return dict(read_json(stored))


def _is_enough(result: Result, job: Job) -> bool:
    """Whether a finished sweep has all that the recipe now asks for."""
    confirm = job.recipe.search.confirm
    asked = confirm and confirm.model_dump(mode="json")
    return bool(
        result["num_trials"] >= job.recipe.search.num_trials
        and asked in (None, result["recipe"].get("search", {}).get("confirm"))
    )


def _require_champion(job: Job, promotion: Result) -> None:
    if promotion["promoted"]:
        return
    try:
        ModelRegistry(job.tracking_uri).by_alias(job.recipe.registered_model, job.recipe.registry.alias)
    except RegistryError:
        raise PromotionError(
            f"version {promotion['version']} of {promotion['model']} did not pass the gate and there is no champion to "
            f"serve instead: {promotion['gate']['reason']}. Change the gate, the quick checks or the search"
        ) from None
