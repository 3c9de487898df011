"""MLflow brought up to date with the study, after a driver that was killed before it had written everything."""

from common.tracking import MetricsAtStep, Tracker
from tune.study import StudySearch, TrialRecord


def recover_runs(search: StudySearch, tracker: Tracker, parent_run_id: str) -> None:
    """Writes what the study holds and the trials' open runs lack, and ends those of trials that have ended.

    A run that was started, but not yet noted in the study, becomes its trial's: each trial keeps to one run. To be
    called before a sweep continues. Only open runs are looked at: whoever ends a run has written it in full.
    """
    open_runs = tracker.open_children(parent_run_id)
    if not open_runs:
        return
    records = {record.name: record for record in search.records()}
    for run_id, name in open_runs.items():
        if name not in records:
            continue
        record = records[name]
        if record.run_id is None:
            search.adopt_run(name, run_id)
        tracker.log(run_id, params=record.settings, metrics=_missing(tracker, run_id, record, search.metric))
        if record.state != "running":
            tracker.finish(run_id, "FAILED" if record.state == "failed" else "FINISHED")


def _missing(tracker: Tracker, run_id: str, record: TrialRecord, metric: str) -> list[MetricsAtStep]:
    """The epochs that the run lacks; when they were measured is not known any more."""
    logged = tracker.logged_steps(run_id, metric)
    return [
        MetricsAtStep({name: value for name, value in epoch.items() if name != "epoch"}, int(epoch["epoch"]))
        for epoch in record.history
        if int(epoch["epoch"]) not in logged
    ]
