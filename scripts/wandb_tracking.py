"""W&B for a command: opened when the recipe asks for it, closed however the command ends, and what it lacks said."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from common.location import cache_folder, local_path
from common.recipe import Recipe
from common.wandb_runs import WandbOutcome, WandbRuns
from scripts.display import say
from scripts.job import Job


@dataclass
class WandbTracking:
    """What a command sees of W&B; nothing happens when the recipe does not ask for it."""

    group: str
    """The sweep's or training's id: names its own run, and groups all."""
    runs: WandbRuns | None = None
    outcome: WandbOutcome | None = None
    """Once it is closed."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records metrics of the sweep's or training's own run."""
        if self.runs is not None:
            self.runs.log(self.group, metrics, step)

    @property
    def result(self) -> dict[str, Any]:
        """What the command's JSON result gets."""
        if self.outcome is None:
            return {}
        found = self.outcome
        fields = {"runs": found.num_runs, "url": found.url, "not_tracked": list(found.not_tracked)}
        return {"wandb": {**fields, "reason": found.reason, "folder": found.folder}}


@contextmanager
def wandb_tracking(job: Job, group: str, job_type: str, data_digest: str) -> Iterator[WandbTracking]:
    """Inside, the job's runs are written: one for itself, and what is started besides."""
    settings = job.recipe.tracking.wandb
    if settings is None:
        yield WandbTracking(group)
        return
    # W&B's client writes to a disk; runs that it could not upload stay there.
    folder, config = local_path(job.storage) or cache_folder(), _config(job.recipe, data_digest)
    runs = WandbRuns(settings, folder, group, tags=[data_digest], config=config)
    tracking = WandbTracking(group, runs)
    runs.start(group, job_type=job_type, config={})
    try:
        yield tracking
        runs.end(group, failed=False)
    except BaseException:
        runs.end(group, failed=True)
        raise
    finally:
        tracking.outcome = runs.close()
        say(f"  {tracking.outcome.message}")


def _config(recipe: Recipe, data_digest: str) -> dict[str, Any]:
    """What W&B shows of a job: the settings of its training, the recipe, and the full digest of the rows."""
    document = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {**document["train"], "recipe": document, "data_sha256": data_digest}
