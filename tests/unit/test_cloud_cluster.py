import importlib.util
import subprocess

import pytest

from common.cloud_cluster import down_in_cloud, up_in_cloud
from common.errors import ClusterError


@pytest.fixture
def commands(monkeypatch):
    """What would have been run; `ray` answers with the exit code that the test puts into `commands[0]`."""
    ran = []

    def run(command, **options):
        ran.append((command[4:], options.get("cwd")))
        return subprocess.CompletedProcess(command, run.exit_code)

    run.exit_code = 0
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: run.found)
    run.found = object()
    return ran, run


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("cluster_name: x\nprovider: {type: aws}\n")
    return path


def test_up_makes_a_token_first_and_works_from_the_files_folder(commands, config):
    ran, _ = commands
    up_in_cloud(config)
    assert [command for command, _ in ran] == [["get-auth-token", "--generate"], ["up", "--yes", config]]
    assert ran[1][1] == config.parent


def test_a_shipped_file_with_its_placeholders_is_refused_by_their_names(commands, config):
    config.write_text(
        "cluster_name: x # YOUR-NAME\nprovider: {type: aws, bucket: s3://YOUR-BUCKET/a, zone: YOUR-ZONE}\n"
    )
    with pytest.raises(ClusterError, match=r"still says YOUR-BUCKET, YOUR-ZONE; write your own"):
        up_in_cloud(config)
    assert commands[0] == []


def test_a_cluster_is_ended_whatever_its_file_says(commands, config):
    config.write_text("provider: {type: aws, bucket: YOUR-BUCKET}")
    down_in_cloud(config)
    assert len(commands[0]) == 1


def test_down_terminates_without_asking(commands, config):
    ran, _ = commands
    down_in_cloud(config)
    assert [command for command, _ in ran] == [["down", "--yes", config]]


def test_a_failing_ray_is_an_error_with_its_exit_code(commands, config):
    commands[1].exit_code = 7
    with pytest.raises(ClusterError, match="exit code 7"):
        down_in_cloud(config)


def test_a_missing_cloud_package_is_named_before_anything_runs(commands, config):
    ran, run = commands
    run.found = None
    with pytest.raises(ClusterError, match="pip install boto3"):
        up_in_cloud(config)
    assert ran == []


@pytest.mark.parametrize("text", [None, "just words", "a: [", "provider: aws"])
def test_what_is_no_cluster_yaml_is_refused(commands, config, text):
    config.unlink() if text is None else config.write_text(text)
    with pytest.raises(ClusterError, match="not a cluster"):
        up_in_cloud(config)
