"""`scripts/mlflow-server` starts nothing that is open, and says what it lacks."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from common.ray_environment import PROJECT_ROOT

COMPLETE = {
    "MLFLOW_BACKEND_STORE_URI": "postgresql://mlflow:p%25ss@db/mlflow",
    "MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/mlflow",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "k",
}
PYTHON = """#!/usr/bin/env bash
echo "$*"
env | grep '^MLFLOW_'
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The script beside a Python that tells what it was started with."""
    for folder in ("scripts", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(PROJECT_ROOT / "scripts" / "mlflow-server", tmp_path / "scripts")
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def start(project: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return subprocess.run(
        [project / "scripts" / "mlflow-server", *arguments],
        env={**inherited, "TUNESERVE_HOME": str(project / "home"), **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", COMPLETE)
def test_what_is_missing_is_named(project: Path, name: str) -> None:
    done = start(project, **{**COMPLETE, name: ""})
    assert done.returncode == 2
    assert f"{name} is not set" in done.stderr


def test_a_database_of_another_kind_is_refused(project: Path) -> None:
    done = start(project, **{**COMPLETE, "MLFLOW_BACKEND_STORE_URI": "sqlite:///mlflow.db"})
    assert done.returncode == 2
    assert "does not begin with postgresql://" in done.stderr


@pytest.mark.parametrize("arguments", [("--host", "0.0.0.0"), ("--host=0.0.0.0",), ("-h", "0.0.0.0")])
def test_other_machines_are_let_in_under_given_names_only(project: Path, arguments: tuple[str, ...]) -> None:
    done = start(project, *arguments, **COMPLETE)
    assert done.returncode == 2
    assert "--host 0.0.0.0 needs MLFLOW_SERVER_ALLOWED_HOSTS" in done.stderr
    named = start(project, *arguments, **COMPLETE, MLFLOW_SERVER_ALLOWED_HOSTS="mlflow.example")
    assert named.returncode == 0
    assert "MLFLOW_SERVER_ALLOWED_HOSTS=mlflow.example\n" in named.stdout


def test_what_it_starts_asks_for_a_password_and_runs_no_code_of_others(project: Path) -> None:
    done = start(project, "--port", "5001", **COMPLETE)
    lines = done.stdout.splitlines()
    assert lines[0] == "-m mlflow server --app-name basic-auth --serve-artifacts --port 5001"
    assert {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false"} <= set(lines)
    users = project / "home" / "mlflow_auth.ini"
    assert users.stat().st_mode & 0o077 == 0
    assert "database_uri = postgresql+psycopg2://mlflow:p%%25ss@db/mlflow\n" in users.read_text()
