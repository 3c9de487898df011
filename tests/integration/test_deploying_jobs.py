"""Endpoints that jobs deployed, after the jobs have ended and all that they uploaded is gone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_exists

from common import jobs
from common.cluster import Connection
from common.code_archive import pack
from common.ray_head import free_port, session_folder
from common.registry import ModelRegistry
from scripts.fault_injection import wait_until
from serve.application import remove_endpoint, start_gateway
from serve.backend import DEPLOYMENT
from serve.ray_serve import serve_details
from tests.small_job import write_recipe
from tests.tiny_model import register

MODEL = "from-jobs"
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def places(cluster: Connection, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the jobs find a registered model."""
    start_gateway("127.0.0.1", free_port())
    folder = tmp_path_factory.mktemp("places")
    registry = ModelRegistry(f"sqlite:///{folder}/mlflow.db")
    register(registry.tracking_uri, MODEL, folder / "model")
    registry.set_alias(MODEL, "champion", 1)
    return {"storage": str(folder / "storage"), "tracking_uri": registry.tracking_uri}


@pytest.fixture
def removed() -> Iterator[list[str]]:
    """The endpoints named here are removed at the end."""
    names: list[str] = []
    yield names
    for name in names:
        remove_endpoint(name)


def deployed_by_job(name: str, places: dict[str, str], folder: Path) -> tuple[str, str]:
    """The endpoint's URL and the URI of the package that its job, which has ended, had uploaded."""
    arguments = ["deploy", str(write_recipe(folder, MODEL)), "--json", f"name={name}", f"registry.model={MODEL}"]
    job, _ = jobs.submit(arguments, **places)
    log = "".join(jobs.follow(job.submission_id))
    ended = jobs.get(job.submission_id)
    assert ended.exit_code == 0, log
    with jobs._talking_to(*jobs._target(None)) as client:
        uploaded = client.get_job_info(job.submission_id).runtime_env["working_dir"]
    return str(jobs.result(ended)["url"]), uploaded


def forget(uploaded: str) -> None:
    """Deletes a job's package, as Ray may once its job has ended, and every unpacked copy of it."""
    _internal_kv_del(uploaded.encode())
    assert not _internal_kv_exists(uploaded.encode())
    unpacked = Path(uploaded.removeprefix("gcs://")).stem
    for copy in session_folder().glob(f"session_*/runtime_resources/working_dir_files/{unpacked}*"):
        shutil.rmtree(copy) if copy.is_dir() else copy.unlink()


def replicas(name: str) -> list[dict[str, Any]]:
    details = serve_details()
    assert details is not None
    found = details["applications"][name]["deployments"][DEPLOYMENT]["replicas"]
    return [replica for replica in found if replica["state"] == "RUNNING"]


@pytest.mark.slow
def test_endpoints_wake_when_their_jobs_have_ended_and_the_uploads_are_gone(
    places: dict[str, str], removed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    urls, uploads = {}, set()
    for name, content in (("first", b"NUMBER = 1\n"), ("changed", b"NUMBER = 2\n")):
        monkeypatch.setattr(
            jobs, "pack", lambda extra, content=content: pack(extra={**extra, "serve/number.py": content})
        )
        urls[name], uploaded = deployed_by_job(name, places, tmp_path / name)
        removed.append(name)
        uploads.add(uploaded)
        assert replicas(name) == []
    assert len(uploads) == 2
    for uploaded in uploads:
        forget(uploaded)

    answers = {
        name: httpx.post(f"{url}/classify", json={"text": "good"}, timeout=DEADLINE_S, trust_env=False)
        for name, url in urls.items()
    }

    assert {name: answer.json()["label"] for name, answer in answers.items()} == {"first": "good", "changed": "good"}
    for name in urls:
        # The standby may have answered: the endpoint's own replica is what runs the code that was deployed.
        wait_until(lambda name=name: bool(replicas(name)), DEADLINE_S, f"{name} got no replica")
        actor = ray.get_actor(replicas(name)[0]["actor_name"], namespace="serve")
        folder = ray.get(actor.__ray_call__.remote(lambda _: __import__("serve").__path__[0]))
        assert not any(Path(uploaded).stem in folder for uploaded in uploads)
