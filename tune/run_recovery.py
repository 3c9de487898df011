"""MLflow brought up to date with the study, after a driver that was killed before it had written everything."""

from collections.abc import Mapping

from common.tracking import MetricsAtStep, Tracker
from tune.recorder import run_tags
from tune.step_losses import STEP_LOSS
from tune.study import StudySearch, TrialRecord


def recover_runs(
    search: StudySearch, tracker: Tracker, parent_run_id: str, tags: Mapping[str, str] | None = None
) -> None:
    """Writes what the study holds and MLflow lacks, and ends the runs of trials that have ended.

    To be called before a sweep continues. A run that was started, but not yet noted in the study, becomes its trial's:
    each trial keeps to one run; one that is started here gets `tags`. A run that was ended is not looked at: whoever
    did that had written it in full.
    """
    losses = search.step_losses()
    open_runs = {name: run_id for run_id, name in tracker.open_children(parent_run_id).items()}
    for record in search.records():
        run_id = record.run_id
        if run_id is None:
            run_id = open_runs.get(record.name)
            if run_id is None and record.state != "running":  # one that runs gets its run when it goes on
                run_id = tracker.start(
                    record.name, tags={**(tags or {}), **run_tags(record)}, parent_run_id=parent_run_id
                )
            if run_id is not None:
                search.record_run(record.name, run_id)
        elif run_id not in open_runs.values():
            continue
        if run_id is not None:
            _complete(tracker, run_id, record, losses.get(record.name, {}), search.metric)


def _complete(tracker: Tracker, run_id: str, record: TrialRecord, losses: Mapping[int, float], metric: str) -> None:
    logged = tracker.logged_steps(run_id, metric)
    missing = [
        MetricsAtStep({name: value for name, value in epoch.items() if name != "epoch"}, int(epoch["epoch"]))
        for epoch in record.history
        if int(epoch["epoch"]) not in logged
    ]  # when they were measured is not known any more
    if losses:
        known = tracker.logged_steps(run_id, STEP_LOSS)
        missing += [MetricsAtStep({STEP_LOSS: loss}, step) for step, loss in losses.items() if step not in known]
    tracker.log(run_id, params=record.settings, metrics=missing)
    if record.state != "running":
        tracker.finish(run_id, "FAILED" if record.state == "failed" else "FINISHED")
