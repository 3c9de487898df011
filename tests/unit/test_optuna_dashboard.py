"""optuna-dashboard opens the study of a sweep, as `optuna-dashboard PATH/study.journal` does."""

from pathlib import Path

import httpx
from optuna_dashboard import wsgi
from optuna_dashboard._storage_url import get_storage

from tests.stored_sweeps import SWEEP_ID, asha_trials, write_sweep


def test_the_study_opens_in_optuna_dashboard(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, asha_trials(num_trials=6))
    with httpx.Client(transport=httpx.WSGITransport(wsgi(get_storage(str(path)))), base_url="http://board") as board:
        (study,) = board.get("/api/studies").json()["study_summaries"]
        details = board.get(f"/api/studies/{study['study_id']}", params={"after": 0}).json()
    assert study["study_name"] == SWEEP_ID
    assert [trial["number"] for trial in details["trials"]] == list(range(6))
    assert {trial["state"] for trial in details["trials"]} == {"Complete", "Pruned"}
    assert all(trial["intermediate_values"] for trial in details["trials"])
    assert {item["name"] for item in details["union_search_space"]} == {"learning_rate", "batch_size", "weight_decay"}
