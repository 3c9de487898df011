"""The whole line as a user types it: killed and resumed, answering, rolled back, and refusing what cannot work."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest

from common.registry import ModelRegistry
from tests.small_job import write_recipe
from tests.warm_command import Command


def tuneserve(*arguments: str) -> tuple[int | None, str, str]:
    """Exit code, stdout, stderr."""
    command = Command(*arguments)
    out, err = command.communicate()
    return command.returncode, out, err


def result(*arguments: str) -> dict[str, Any]:
    code, out, err = tuneserve(*arguments, "--json")
    assert code == 0, err
    return dict(json.loads(out))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("line"), name="line")


@pytest.fixture(scope="module")
def places(recipe: Path) -> tuple[str, ...]:
    storage = recipe.parent / "storage"
    return ("--storage", str(storage), "--mlflow-uri", f"sqlite:///{storage}/mlflow.db")


@pytest.fixture(scope="module")
def finished(gateway: None, recipe: Path, places: tuple[str, ...]) -> dict[str, Any]:
    """`run`, killed without warning when its first trial is done, and run again."""
    first = Command("run", str(recipe), *places)
    for line in first.stderr:
        if " complete" in line or " pruned" in line:
            break
    else:
        pytest.fail("the first run ended before a trial did")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    return result("run", str(recipe), *places)


def test_a_killed_run_goes_on_where_it_was(finished: dict[str, Any], recipe: Path, places: tuple[str, ...]) -> None:
    assert len(finished["sweep"]["trials"]) == 3
    assert {trial["state"] for trial in finished["sweep"]["trials"]} <= {"complete", "pruned"}
    client = mlflow.MlflowClient(places[3])
    runs = client.search_runs([client.get_experiment_by_name("line").experiment_id])
    assert {entry.info.status for entry in runs} == {"FINISHED"}
    children = [entry for entry in runs if entry.data.tags.get("mlflow.parentRunId")]
    assert len([entry for entry in children if entry.info.run_name.startswith("trial-")]) == 3


def test_run_again_repeats_no_finished_step(finished: dict[str, Any], recipe: Path, places: tuple[str, ...]) -> None:
    code, out, err = tuneserve("run", str(recipe), *places, "--json")
    assert code == 0
    again = json.loads(out)
    assert again["sweep"] == finished["sweep"]
    assert again["promote"] == finished["promote"]
    assert again["deploy"] == finished["deploy"]
    assert "is finished already" in err
    assert "is registered already" in err


def test_the_endpoint_answers_with_the_champion(finished: dict[str, Any]) -> None:
    deployed = finished["deploy"]
    assert finished["promote"]["promoted"] is True
    answer = httpx.post(f"{deployed['url']}/classify", json={"texts": ["Orbeck Bank cuts guidance"]}, timeout=60).json()
    assert answer["version"] == finished["promote"]["version"] == deployed["version"]
    assert set(answer["predictions"][0]["scores"]) == {"bearish", "bullish", "neutral"}


def test_the_endpoint_tells_the_champions_card(finished: dict[str, Any]) -> None:
    card = httpx.get(f"{finished['deploy']['url']}/card", timeout=60).json()

    assert card["version"] == finished["promote"]["version"]
    assert card["metrics"] == {name: round(value, 4) for name, value in finished["promote"]["metrics"].items()}
    assert card["text"].startswith(f"# {card['model']}\n")


def test_predict_gives_what_the_endpoint_gives(
    finished: dict[str, Any], recipe: Path, places: tuple[str, ...], tmp_path: Path
) -> None:
    import pyarrow.parquet

    text = "Galdor Motors names new chief financial officer, says a = b"
    said = result("predict", str(recipe), text, *places)["predictions"][0]
    served = httpx.post(f"{finished['deploy']['url']}/classify", json={"texts": [text]}, timeout=60).json()
    assert said["label"] == served["predictions"][0]["label"]
    assert said["score"] == pytest.approx(served["predictions"][0]["score"], abs=1e-6)

    out = tmp_path / "out.parquet"
    rows = result(
        "predict", "models:/line@champion", "--file", str(recipe.parent / "headlines.csv"), "--out", str(out), *places
    )
    table = pyarrow.parquet.read_table(out)
    given = pyarrow.csv.read_csv(recipe.parent / "headlines.csv")
    assert rows["rows"] == table.num_rows == given.num_rows
    assert table.select(["text", "label"]).equals(given)
    assert set(table["predicted_label"].to_pylist()) <= {"bearish", "bullish", "neutral"}


def test_rollback_moves_the_alias_back_and_the_endpoint_follows(
    finished: dict[str, Any], recipe: Path, places: tuple[str, ...]
) -> None:
    url = finished["deploy"]["url"]
    registry = ModelRegistry(places[3])
    # With the files of the first: this is about the alias, and training another model would change nothing.
    first = registry.by_alias("line", "champion")
    second = int(mlflow.MlflowClient(places[3]).create_model_version("line", first.uri).version)
    registry.set_alias("line", "champion", second)
    assert result("deploy", str(recipe), *places)["version"] == second > finished["deploy"]["version"]
    back = result("rollback", "line", *places)
    assert back["version"] == finished["deploy"]["version"]
    health = httpx.get(f"{url}/healthz", timeout=60).json()
    assert health["version"] == back["version"]


def test_a_job_deploys_an_endpoint_that_wakes_after_the_job_has_ended(
    finished: dict[str, Any], recipe: Path, places: tuple[str, ...]
) -> None:
    submitted = result("submit", *places, "--", "deploy", str(recipe), "name=from-a-job", "registry.model=line")
    answer = httpx.post(f"{submitted['url']}/classify", json={"text": "Orbeck Bank cuts guidance"}, timeout=60)
    assert answer.status_code == 200
    assert answer.json()["version"] == submitted["version"]


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_sweep_ends_cleanly_and_says_how_to_resume(
    signum: signal.Signals, gateway: None, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, name="interrupted")
    sweep = Command("sweep", str(recipe), "train.epochs=50", "--storage", str(tmp_path / "storage"))
    for line in sweep.stderr:
        if "epoch 1" in line:
            break
    sweep.send_signal(signum)
    _, err = sweep.communicate()
    assert sweep.returncode == 130, err
    assert f"continue with: tuneserve sweep --resume {recipe} train.epochs=50" in err
    assert "Traceback" not in err
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/storage/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("interrupted").experiment_id])
    assert {entry.info.status for entry in runs} <= {"KILLED", "FINISHED"}


def test_status_shows_cluster_runs_and_endpoints(finished: dict[str, Any], places: tuple[str, ...]) -> None:
    shown = result("status", *places[:2])
    assert shown["cluster"]["gateway_url"]
    assert {"line"} <= {endpoint["name"] for endpoint in shown["endpoints"]}
    assert {"finished"} == {entry["state"] for entry in shown["sweeps"]}


@pytest.mark.slow
def test_commands_work_from_a_folder_that_holds_modules_of_our_names(
    recipe: Path, places: tuple[str, ...], tmp_path: Path
) -> None:
    for name in ("tune.py", "serve.py"):
        (tmp_path / name).write_text("raise RuntimeError('the wrong module')\n")
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("raise RuntimeError('the wrong module')\n")
    console_command = Path(sys.executable).with_name("tuneserve")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [console_command, "sweep", str(recipe), "name=elsewhere", "search.num_trials=1", "train.epochs=1", *places],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
