"""The serving image without Docker: files laid out, packages installed and commands run as its Dockerfile says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.cluster import PROJECT_ROOT
from common.ray_head import LOOPBACK, free_port
from common.registry import ModelRegistry
from tests.extras import OF_TRAINING
from tests.tiny_model import register

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DOCKERFILE = (PROJECT_ROOT / "docs" / "clusters" / "serving.Dockerfile").read_text("utf-8").replace("\\\n", " ")
NAME = "tiny"
RECIPE = """
name: tiny
data: {source: never-read.csv}
model: {base: never-read}
serve: {min_replicas: 0, max_replicas: 2, downscale_to_zero_delay_s: 1}
"""
DEADLINE_S = 90.0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the image has in its own."""
    folder = tmp_path_factory.mktemp("image")
    for line in re.findall(r"^COPY --chown=\S+ (.+)$", DOCKERFILE, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            copy(PROJECT_ROOT / source, folder / (target if len(sources) == 1 else f"{target}/{source}"))
    subprocess.run([sys.executable, "-m", "venv", ".venv"], cwd=folder, check=True)
    (install,) = re.findall(r"pip (install .+)$", DOCKERFILE, re.MULTILINE)
    pip = [".venv/bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *shlex.split(install)], cwd=folder, check=True)
    return folder


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.fixture(scope="module")
def environment(image: Path) -> dict[str, str]:
    """That of a container: a home of its own, and the places, where this environment has registered a model."""
    storage = image / "storage"
    registry = ModelRegistry(f"sqlite:///{image}/mlflow.db")
    register(registry.tracking_uri, NAME, image / "model")
    registry.set_alias(NAME, "champion", 1)
    (image / "recipe.yaml").write_text(RECIPE)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNESERVE_", "PYTHON"))}
    places = {"TUNESERVE_STORAGE": str(storage), "MLFLOW_TRACKING_URI": registry.tracking_uri, "HOME": str(image)}
    return {**kept, **places, "PATH": f"{image}/.venv/bin{os.pathsep}{kept['PATH']}"}


def tuneserve(image: Path, environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    command = [str(image / ".venv" / "bin" / "tuneserve"), *arguments, "--json"]
    done = subprocess.run(command, cwd=image, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def url(image: Path, environment: dict[str, str]) -> Iterator[str]:
    """The endpoint of the model, on a cluster that stays as long as the container's command does."""
    assert re.search(r'^CMD \["tuneserve", "up", "--host", "0.0.0.0", "--block"\]$', DOCKERFILE, re.MULTILINE)
    port = str(free_port())
    command = [str(image / ".venv" / "bin" / "tuneserve"), "up", "--port", port, "--num-cpus", "2", "--block"]
    with subprocess.Popen(command, cwd=image, env=environment, stderr=subprocess.PIPE, text=True) as container:
        assert container.stderr is not None
        try:
            assert any("It ends with this command" in line for line in container.stderr), "the cluster did not start"
            deployed = tuneserve(image, environment, "deploy", "recipe.yaml")
            assert deployed["url"] == f"http://{LOOPBACK}:{port}/{NAME}"
            yield deployed["url"]
        finally:
            container.terminate()
            container.stderr.read()
            ended_with = container.wait(timeout=DEADLINE_S)
            left = tuneserve(image, environment, "down")["ended"]  # whatever failed, nothing stays
    assert (ended_with, left) == (130, False)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_image_holds_nothing_that_only_training_needs(image: Path) -> None:
    code = f"import importlib.util as i; print([name for name in {OF_TRAINING!r} if i.find_spec(name)])"
    found = subprocess.run([image / ".venv/bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_endpoint_answers_from_it_sleeps_and_wakes_again(url: str) -> None:
    with httpx.Client(timeout=DEADLINE_S, trust_env=False) as client:

        def health() -> dict[str, Any]:
            return dict(client.get(f"{url}/healthz").json())

        def label(text: str) -> str:
            answer = client.post(f"{url}/classify", json={"text": text}).raise_for_status()
            return str(answer.json()["label"])

        assert health()["replicas"] == 0
        assert label("good good bad") == "good"
        wait_until(lambda: label("bad") == "bad" and health()["replicas"] > 0)  # the standby answers until there is one
        wait_until(lambda: health()["state"] == "asleep" and health()["replicas"] == 0)
        assert label("bad bad good") == "bad"


def test_predict_answers_from_it_too(image: Path, environment: dict[str, str]) -> None:
    said = tuneserve(image, environment, "predict", f"models:/{NAME}@champion", "good")
    assert said["predictions"][0]["label"] == "good"
