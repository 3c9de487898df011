import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import uuid
from contextlib import suppress
from types import SimpleNamespace

import psutil
import pytest

from common import cluster, machines, ray_head
from common.cluster import Node, Resources, connect, down, read_record, startable, up
from common.cluster_record import ClusterRecord, recorded, write_record
from common.errors import ClusterError
from common.ray_environment import LOOPBACK_VARIABLE, environment, other_cluster_environment, token_path

RECORD = ClusterRecord(
    address="127.0.0.1:1",
    dashboard_url="http://127.0.0.1:2",
    gateway_url=None,
    storage="/data",
    tracking_uri="sqlite:////data/mlflow.db",
    pid=2**22 + 1,
    started_at="2026-01-01T00:00:00+00:00",
    cluster_id=uuid.uuid4().hex,  # another run of these tests on this machine must not be taken for this one
)


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def taken_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("option", ["port", "dashboard_port"])
def test_up_refuses_a_port_that_is_taken_and_names_it(taken_port, option):
    with pytest.raises(ClusterError, match=f"port {taken_port} is taken"):
        up(storage="/data", tracking_uri="sqlite://", **{option: taken_port})
    assert recorded() is None


def test_connecting_without_a_cluster_is_refused_when_a_private_one_is_not_wanted():
    with pytest.raises(ClusterError, match="tuneserve up"), connect(private=False):
        pass


def test_a_process_handles_sigterm_as_before_once_it_has_left_a_cluster(monkeypatch):
    def leave() -> None:  # Ray's own end, as far as the signal goes
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    monkeypatch.setattr(cluster, "_join", lambda address, num_cpus: None)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
    monkeypatch.setattr(cluster.ray, "shutdown", leave)
    before = signal.getsignal(signal.SIGTERM)
    handled = []
    signal.signal(signal.SIGTERM, lambda *_: handled.append("handled"))
    try:
        with connect():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert handled == ["handled"]


def test_an_address_that_nobody_answers_at_is_refused_at_once(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{ray_head.free_port()}")
    with pytest.raises(ClusterError, match="no Ray cluster answers at 127"), connect():
        pass


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001"])
def test_an_address_that_a_driver_cannot_use_points_to_submit(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=f"tuneserve submit --address {address}"), connect():
        pass


def test_the_record_of_a_cluster_that_is_gone_is_not_read_and_down_forgets_it(caplog):
    write_record(RECORD)
    assert read_record() is None
    assert "`tuneserve up` starts a new one" in caplog.text
    assert not down()
    assert recorded() is None


def test_a_process_that_was_given_the_heads_pid_later_is_not_taken_for_it():
    assert not ray_head.is_head_alive(os.getpid(), RECORD.cluster_id)
    assert ray_head._members(RECORD.cluster_id) == []


LEADS_A_SESSION = """
import subprocess, sys, time
stays = [sys.executable, "-c", "import time; time.sleep(60)"]
children = [subprocess.Popen(stays), subprocess.Popen(stays, start_new_session=True)]
print(*(child.pid for child in children), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("is_killed_before", [False, True])
def test_ending_a_head_ends_all_that_it_started_and_nothing_else(is_killed_before):
    marked = {**os.environ, ray_head.CLUSTER_ID_VARIABLE: RECORD.cluster_id}
    command = [sys.executable, "-c", LEADS_A_SESSION]
    head, other = (
        subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True)
        for environment in (marked, dict(os.environ))
    )
    members, bystanders = (
        [psutil.Process(int(pid)) for pid in leader.stdout.readline().split()] for leader in (head, other)
    )
    try:
        if is_killed_before:
            head.kill()
            head.wait()
        ray_head._started.append(head)
        assert ray_head.end_head(head.pid, RECORD.cluster_id) == (2 if is_killed_before else 3)
        assert not any(process.is_running() and process.status() != "zombie" for process in members)
        assert all(process.is_running() for process in bystanders)
        assert other.poll() is None
    finally:
        for process in [head, other, *members, *bystanders]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_damaged_record_is_ignored_with_a_word(tmp_path, caplog):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cluster.json").write_text('{"address": ')
    assert read_record() is None
    assert "not a cluster record" in caplog.text


def test_the_token_is_made_once_by_whoever_comes_first_and_is_its_owners_alone():
    tokens = []
    threads = [threading.Thread(target=lambda: tokens.append(token_path().read_text())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(tokens)) == 1
    assert len(tokens[0]) == 64
    assert stat.S_IMODE(token_path().stat().st_mode) == 0o600
    assert [path.name for path in token_path().parent.iterdir()] == ["ray_token"]


def test_the_environment_is_put_back(monkeypatch):
    import ray._private.ray_constants as ray_constants

    monkeypatch.setenv("RAY_AUTH_TOKEN", "the user's")
    before = dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER
    with environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path()), LOOPBACK_VARIABLE: "0"}):
        assert "RAY_AUTH_TOKEN" not in os.environ
        assert not ray_constants.ENABLE_RAY_CLUSTER
    assert (dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER) == before


def test_a_users_own_token_is_presented_to_another_cluster_unless_the_user_decided(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "RAY_AUTH_MODE" not in other_cluster_environment()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    assert other_cluster_environment()["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "RAY_AUTH_MODE" not in other_cluster_environment()


def test_a_session_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    ray_head.session_folder().symlink_to(tmp_path)
    with pytest.raises(ClusterError, match="RAY_TMPDIR"):
        ray_head.session_folder()


def test_resources_add_up_over_the_nodes():
    offered = Resources((Node(4.0, 1.0), Node(2.0, 0.0)))
    assert (offered.num_cpus, offered.num_gpus) == (6.0, 1.0)


HEAD, GPU, CPU = Node(4.0, 0.0), Node(4.0, 1.0), Node(8.0, 0.0)
TYPES = {
    "head": {"resources": {"CPU": 4}, "max_workers": 0},
    "gpu": {"resources": {"CPU": 4, "GPU": 1, "accelerator_type:T4": 1}, "max_workers": 3},
}


def of_ray_up(max_workers=9, **types):
    return {"head_node_type": "head", "max_workers": max_workers, "available_node_types": {**TYPES, **types}}


@pytest.mark.parametrize(
    ("workers", "config", "expected"),
    [
        ([], {}, []),
        ([], of_ray_up(), [GPU] * 3),
        ([GPU, GPU], of_ray_up(), [GPU]),
        ([], of_ray_up(2), [GPU] * 2),
        ([GPU], of_ray_up(2, cpu={"resources": {"CPU": 8}, "max_workers": 5}), [GPU]),
        ([CPU], of_ray_up(9, cpu={"resources": {"CPU": 8}, "max_workers": 2}), [GPU] * 3 + [CPU]),
        ([], of_ray_up(5, cpu={"resources": {"CPU": 8}}), [GPU] * 3 + [CPU] * 2),
        ([], of_ray_up(1, gpu={"resources": {}}), [Node(0.0, 0.0)]),
        ([GPU] * 4, of_ray_up(), []),
    ],
)
def test_machines_that_an_autoscaler_may_start_count_as_there_but_not_twice(workers, config, expected):
    assert startable(workers, config) == expected


def test_two_types_that_offer_the_same_share_what_runs():
    again = of_ray_up(9, spare={"resources": {"CPU": 4, "GPU": 1}, "max_workers": 2})
    assert startable([GPU] * 4, again) == [GPU]


@pytest.fixture
def running(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    alive = [{"CPU": 4.0, cluster.HEAD_RESOURCE: 1.0}, {"CPU": 4.0, "GPU": 1.0}]
    nodes = [{"Alive": True, "Resources": offer} for offer in alive] + [{"Alive": False, "Resources": {"CPU": 99.0}}]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    return tmp_path / "ray_bootstrap_config.yaml"


def test_on_a_head_of_ray_up_the_machines_that_may_come_count(running):
    assert cluster.resources().nodes == (HEAD, GPU)
    running.write_text(json.dumps(of_ray_up()))
    assert cluster.resources().nodes == (HEAD, GPU, GPU, GPU)


@pytest.mark.parametrize(("record", "is_private"), [(RECORD, False), (None, True)])
def test_a_local_cluster_on_such_a_head_has_no_autoscaler(running, monkeypatch, record, is_private):
    running.write_text(json.dumps(of_ray_up()))
    monkeypatch.setattr(cluster, "_connection", cluster.Connection("127.0.0.1:1", record, is_private))
    assert cluster.resources().nodes == (HEAD, GPU)


REPLICA = "tuneserve_replica"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"max_workers": 0}, False),
        ({"resources": {"CPU": 8}}, False),
        ({"resources": None}, False),
    ],
)
def test_a_custom_resource_is_offered_when_a_machine_that_may_come_has_it(running, changes, expected):
    assert not cluster.offers(REPLICA)
    serving = {"resources": {"CPU": 8, REPLICA: 4}, "max_workers": 1, **changes}
    running.write_text(json.dumps(of_ray_up(4, serving=serving)))
    assert cluster.offers(REPLICA) is expected


def test_a_custom_resource_is_offered_when_a_living_machine_has_it(running, monkeypatch):
    nodes = [{"Alive": False, "Resources": {REPLICA: 4.0}}]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    assert not cluster.offers(REPLICA)
    nodes.append({"Alive": True, "Resources": {REPLICA: 4.0}})
    assert cluster.offers(REPLICA)


def test_a_local_cluster_on_a_head_of_ray_up_has_none_of_its_serving_machines(running, monkeypatch):
    running.write_text(json.dumps(of_ray_up(4, serving={"resources": {REPLICA: 4}})))
    monkeypatch.setattr(cluster, "_connection", cluster.Connection("127.0.0.1:1", RECORD, False))
    assert not cluster.offers(REPLICA)


@pytest.mark.parametrize(("visible", "num_gpus"), [(None, 4), ("0,2", 2), ("", 0)])
def test_this_machine_offers_what_a_containers_limit_and_the_visible_devices_leave(monkeypatch, visible, num_gpus):
    import ray._private.utils
    from ray._private.accelerators import NvidiaGPUAcceleratorManager

    monkeypatch.setattr(ray._private.utils, "_get_docker_cpus", lambda: 3.0)
    monkeypatch.setattr(NvidiaGPUAcceleratorManager, "get_current_node_num_accelerators", staticmethod(lambda: 4))
    monkeypatch.setattr(
        machines.accelerators, "get_accelerator_manager_for_resource", lambda _: NvidiaGPUAcceleratorManager
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machines.this_machine() == Resources((Node(3.0, float(num_gpus)),))
