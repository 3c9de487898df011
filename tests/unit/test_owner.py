"""Whose a run is."""

import getpass
import json

import pytest

from common.owner import owner


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TUNESERVE_OWNER", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(getpass, "getuser", lambda: "ray")


def test_a_run_is_the_users_unless_the_environment_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert owner() == "ray"
    monkeypatch.setenv("TUNESERVE_OWNER", "ana")
    assert owner() == "ana"


def test_what_runs_in_a_job_is_of_who_submitted_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {}, "metadata": {"owner": "ana"}}))
    assert owner() == "ana"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # of another client
    assert owner() == "ray"
