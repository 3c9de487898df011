"""Which cluster a command starts, uses or ends, and what `status` knows without one."""

import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Never

import pytest

from common.api_keys import create_key
from common.cluster_record import ClusterRecord
from common.errors import ClusterError, RegistryError, ServingError
from common.ray_head import free_port
from common.recipe_file import shipped_recipes
from common.registry import ModelRegistry
from common.storage import write_json
from scripts import serving
from scripts.job import Job
from serve.application import Deployed
from serve.canary_settings import CanarySettings
from serve.gateway_server import Tls

LOCAL = ClusterRecord("127.0.0.1:6379", "http://127.0.0.1:8265", None, "/s", "sqlite:////s/mlflow.db", 1, "", "")
GATEWAY = "http://127.0.0.1:8000"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None is up, and to start one or to connect is an error."""

    def refuse(*arguments: object, **options: object) -> Never:
        raise AssertionError("a cluster was started or connected to")

    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    for variable in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    for name in ("up", "connect", "start_gateway"):
        monkeypatch.setattr(serving, name, refuse)


def test_status_lists_runs_without_a_cluster(tmp_path: Path) -> None:
    metrics = {"accuracy": 0.9, "loss": 0.3}
    write_json(f"{tmp_path}/runs/a-sweep-1/result.json", {"best": {"metrics": metrics}})
    (tmp_path / "runs" / "b-train-1").mkdir()

    assert serving.status(storage=str(tmp_path)) == {
        "cluster": None,
        "sweeps": [
            {"id": "a-sweep-1", "state": "finished", "metrics": metrics, "owner": None},
            {"id": "b-train-1", "state": "unfinished", "metrics": None, "owner": None},
        ],
        "endpoints": [],
    }


def test_status_shows_each_owner_their_own_and_all_of_them_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(everyone: bool = False) -> list[str]:
        return [entry["owner"] for entry in serving.status(storage=str(tmp_path), everyone=everyone)["sweeps"]]

    for name in ("ana", "bo"):
        monkeypatch.setenv("TUNESERVE_OWNER", name)
        Job.load(str(shipped_recipes()["quickstart"]), [f"name={name}"], str(tmp_path), None).note_start(
            f"{name}-sweep-1"
        )

    assert shown() == ["bo"]
    assert "1 of others: tuneserve status --all" in capsys.readouterr().err
    assert shown(everyone=True) == ["ana", "bo"]
    assert "ana-sweep-1  unfinished  of ana" in capsys.readouterr().err


def test_what_a_killed_write_left_is_not_taken_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.0123.json.4567.part").touch()  # of `write_json` in `run`

    assert serving.status(storage=str(tmp_path))["sweeps"] == []


@pytest.mark.parametrize(
    ("ended", "said"), [(True, "The local cluster has ended."), (False, "No local cluster was up.")]
)
def test_down_says_whether_anything_ended(
    ended: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving, "down", lambda: ended)
    assert serving.end_cluster(None) == {"ended": ended}
    assert said in capsys.readouterr().err


def test_a_gateway_port_that_is_taken_is_refused_before_anything_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ClusterError, match=f"port {port} is taken; .*tuneserve up --port"):
            serving.up_gateway("/s", "uri", gateway_port=port)


def test_a_cluster_with_its_gateway_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    record = replace(LOCAL, gateway_url=GATEWAY)
    monkeypatch.setattr(serving, "read_record", lambda: record)
    monkeypatch.setattr(serving, "is_free", lambda port: False)  # the gateway itself has it
    assert serving.up_gateway("/s", "uri") is record


def test_a_gateway_that_is_started_is_noted_for_later_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = []

    def note(record: ClusterRecord, url: str) -> ClusterRecord:
        noted.append((record, url))
        return replace(record, gateway_url=url)

    monkeypatch.setattr(serving, "read_record", lambda: LOCAL)
    monkeypatch.setattr(serving, "connect", lambda private: nullcontext())
    monkeypatch.setattr(serving, "start_gateway", lambda host, port, tls: GATEWAY)
    monkeypatch.setattr(serving, "with_gateway", note)

    assert serving.up_gateway("/s", "uri").gateway_url == GATEWAY
    assert noted == [(LOCAL, GATEWAY)]


def start(**options: str) -> Any:
    given = dict.fromkeys(("storage", "mlflow_uri", "num_cpus", "host", "port", "tls_cert", "tls_key"))
    return serving.start_cluster(None, **{**given, **options})


@pytest.mark.parametrize("options", [{"host": "0.0.0.0"}, {"tls_cert": "c", "tls_key": "k"}])
def test_a_gateway_that_listens_already_is_not_moved_silently(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "read_record", lambda: replace(LOCAL, gateway_url=GATEWAY))
    with pytest.raises(ClusterError, match=r"listens on http://127\.0\.0\.1:8000 already, .*`tuneserve down`"):
        start(**options)


@pytest.mark.parametrize("option", ["tls_cert", "tls_key"])
def test_half_of_a_certificate_is_refused(option: str) -> None:
    with pytest.raises(ClusterError, match="--tls-cert and --tls-key belong together"):
        start(**{option: "x"})


def test_a_wrong_certificate_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="are not a certificate and its key"):
        serving.up_gateway("/s", "uri", gateway_port=free_port(), tls=Tls(tmp_path / "c", tmp_path / "k"))


@pytest.mark.parametrize(
    ("host", "has_key", "said"), [(None, False, False), ("0.0.0.0", False, True), ("0.0.0.0", True, False)]
)
def test_beyond_loopback_without_a_key_up_says_that_nobody_gets_in(
    host: str | None,
    has_key: bool,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(serving, "up_gateway", lambda *_, **options: replace(LOCAL, gateway_url=GATEWAY))
    if has_key:
        create_key("ci")
    start(**({"host": host} if host else {}))
    err = capsys.readouterr().err
    assert ("tuneserve keys create NAME" in err) is said
    assert ("Without --tls-cert" in err) is (host is not None)


@pytest.fixture
def staying(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `up --block` does once its cluster is up: it looks twice, the head is there once."""
    done: list[str] = []
    looks = iter([True, False])
    monkeypatch.setattr(serving, "up_gateway", lambda *_, **options: replace(LOCAL, gateway_url=GATEWAY))
    monkeypatch.setattr(serving, "is_head_alive", lambda pid, cluster_id: next(looks))
    monkeypatch.setattr(serving, "down", lambda: done.append("down"))
    monkeypatch.setattr(serving.time, "sleep", lambda seconds: done.append("looked"))
    return done


def test_up_that_stays_returns_when_the_cluster_was_ended_elsewhere(
    staying: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "recorded", lambda: None)
    assert serving.start_cluster(block=True)["cluster"]["gateway_url"] == GATEWAY
    assert staying == ["looked"]


def test_up_that_stays_fails_when_the_cluster_ends_by_itself(
    staying: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "recorded", lambda: LOCAL)
    with pytest.raises(ServingError, match=r"has ended by itself; its log is .*head\.log"):
        serving.start_cluster(block=True)
    assert staying == ["looked", "down"]


def test_up_that_stays_ends_the_cluster_when_it_is_interrupted(
    staying: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(serving.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        serving.start_cluster(block=True)
    assert staying == ["down"]


def test_up_cannot_stay_with_a_cluster_elsewhere() -> None:
    with pytest.raises(ClusterError, match=r"--block: the cluster of cluster\.yaml does not end with this command"):
        serving.start_cluster("cluster.yaml", block=True)


def load(tmp_path: Path) -> Job:
    return Job.load(str(shipped_recipes()["quickstart"]), (), str(tmp_path / "storage"), None)


def test_what_is_not_registered_is_refused_before_a_cluster_is_started(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="nothing is registered"):
        serving.deploy(load(tmp_path))


@pytest.mark.parametrize(
    ("is_job", "ray_address", "started"),
    [
        (False, None, ("local", None)),
        (False, LOCAL.address, ("local", None)),
        (False, "10.0.0.1:6379", ("there", "file:///code.zip")),
        (True, None, ("there", "file:///code.zip")),
    ],
)
def test_a_job_and_a_driver_sent_elsewhere_deploy_where_they_are_with_their_code(
    is_job: bool,
    ray_address: str | None,
    started: tuple[str, str | None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    seen: list[Any] = []

    def deploy_endpoint(recipe: object, *, code_uri: str | None, **options: object) -> Deployed:
        seen.append(code_uri)
        return Deployed("url", "quickstart", 1)

    if ray_address:
        monkeypatch.setenv("RAY_ADDRESS", ray_address)
    monkeypatch.setattr(ModelRegistry, "by_alias", lambda *_: None)
    monkeypatch.setattr(serving, "in_job", lambda: is_job)
    monkeypatch.setattr(serving, "read_record", lambda: LOCAL)
    monkeypatch.setattr(serving, "connect", lambda private: nullcontext())
    monkeypatch.setattr(serving, "code_archive", lambda storage: "file:///code.zip")
    monkeypatch.setattr(serving, "up_gateway", lambda storage, uri: seen.append("local"))
    monkeypatch.setattr(serving, "start_gateway", lambda host, port, code_uri: seen.append("there"))
    monkeypatch.setattr(serving, "deploy_endpoint", deploy_endpoint)

    assert serving.deploy(load(tmp_path)) == {"url": "url", "model": "quickstart", "version": 1}
    assert tuple(seen) == started


CANARY = CanarySettings("canary", 10, 2, "candidate", 200, 0.8, "now")


def test_a_candidate_starts_no_cluster_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no cluster is up, so there is no endpoint 'quickstart'"):
        serving.deploy(load(tmp_path), CANARY)


def test_a_deployment_says_which_candidate_stands_beside_it_and_whose_comparison_it_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ModelRegistry, "by_alias", lambda *_: None)
    monkeypatch.setattr(serving, "read_record", lambda: LOCAL)
    monkeypatch.setattr(serving, "connect", lambda private: nullcontext())
    monkeypatch.setattr(serving, "up_gateway", lambda storage, uri: None)
    monkeypatch.setattr(serving, "deploy_endpoint", lambda recipe, **options: Deployed("url", "quickstart", 1, 7))

    result = serving.deploy(load(tmp_path), CANARY)

    assert result["canary"]["version"] == 2
    said = capsys.readouterr().err
    assert "the comparison with version 7 has ended" in said
    assert "version 2 answers 10 % of the requests" in said


def test_rolling_back_without_a_cluster_moves_the_alias_and_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(serving, "ModelRegistry", lambda uri: SimpleNamespace(rollback=lambda name, alias: (3, 1)))
    result = serving.roll_back("news", alias="champion", storage=str(tmp_path), mlflow_uri=None)
    assert result == {"model": "news", "alias": "champion", "from": 3, "version": 1}
