import json
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from common import jobs
from common.cluster import Connection, token_path
from common.errors import ClusterError, InputError
from common.ray_head import session_folder
from tests.integration.conftest import CLUSTER_SECRET


def run_python(monkeypatch, code):
    """Makes the next submitted commands run this instead of the command line, which gets the arguments."""
    monkeypatch.setattr(jobs, "ENTRY_POINT", ("python", "-c", code))


def submit(cluster: Connection, *arguments, **options):
    assert cluster.record is not None
    places = {"storage": cluster.record.storage, "tracking_uri": cluster.record.tracking_uri}
    return jobs.submit(list(arguments) or ["run"], **{**places, **options})[0]


def follow_to_end(job):
    return "".join(jobs.follow(job.submission_id)), jobs.get(job.submission_id)


JOINS_AND_REPORTS = """
import json, sys
import ray
import common.cluster
with common.cluster.connect(private=False) as connection:
    @ray.remote
    def where():
        import tune
        return tune.__file__
    print("REPORT " + json.dumps({
        "arguments": sys.argv[1:],
        "address": connection.address,
        "is_private": connection.is_private,
        "in_job": common.cluster.in_job(),
        "driver": common.cluster.__file__,
        "worker": ray.get(where.remote(), timeout=60),
        "python": sys.executable,
    }))
"""


def test_a_job_joins_its_own_cluster_and_runs_its_own_copy_of_the_code(cluster, monkeypatch):
    run_python(monkeypatch, JOINS_AND_REPORTS)
    log, job = follow_to_end(submit(cluster, "run", "x.y=1"))
    assert job.exit_code == 0, log
    report = json.loads(log.split("\nREPORT ")[1].splitlines()[0])
    assert report["address"] == cluster.address
    assert report["in_job"]
    assert not report["is_private"]
    assert "working_dir_files" in report["driver"]
    assert "working_dir_files" in report["worker"]
    assert Path(report["python"]).samefile(sys.executable)
    places = ["--storage", cluster.record.storage, "--mlflow-uri", cluster.record.tracking_uri]
    assert report["arguments"] == ["run", *places, "x.y=1"]


def test_the_jobs_exit_code_is_the_commands(cluster, monkeypatch):
    run_python(monkeypatch, "import sys; print('said before the end'); sys.exit(2)")
    log, job = follow_to_end(submit(cluster))
    assert (job.status, job.exit_code) == ("FAILED", 2)
    assert "said before the end" in log
    assert "said before the end" in jobs.logs(job.submission_id)


def test_a_submission_id_is_used_once(cluster, monkeypatch):
    run_python(monkeypatch, "pass")
    submit(cluster, submission_id="only-once")
    with pytest.raises(InputError, match="'only-once' was submitted before"):
        submit(cluster, submission_id="only-once")


def test_json_output_arrives_as_a_result_apart_from_the_log(cluster, monkeypatch):
    run_python(monkeypatch, "import sys; print('{\"a\": 1}'); print('progress', file=sys.stderr)")
    log, job = follow_to_end(submit(cluster, "run", "--json"))
    assert jobs.result(job) == {"a": 1}
    assert "progress" in log
    assert '{"a": 1}' not in log.partition("Running entrypoint")[2].partition("\n")[2]


def test_stop_interrupts_the_command_and_waits_for_its_end(cluster, monkeypatch, tmp_path):
    mark = tmp_path / "mark"
    code = (
        "import pathlib, sys, time\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "try:\n"
        "    mark.write_text('started')\n"
        "    time.sleep(300)\n"
        "except KeyboardInterrupt:\n"
        "    mark.write_text('interrupted')\n"
    )
    run_python(monkeypatch, code)
    job = submit(cluster, "run", "--json")
    wait_for(mark.exists)
    stopped = jobs.stop(job.submission_id)
    assert (stopped.status, stopped.exit_code) == ("STOPPED", 130)
    assert mark.read_text() == "interrupted"
    assert jobs.stop(job.submission_id).status == "STOPPED"


def test_following_goes_on_where_a_dropped_connection_left_off(cluster, monkeypatch):
    run_python(monkeypatch, "import time\nfor n in range(8):\n    print(f'line {n}', flush=True); time.sleep(0.3)")
    job = submit(cluster)
    connections = drop_after_first_piece(monkeypatch, times=2)
    log, job = follow_to_end(job)
    assert job.status == "SUCCEEDED"
    assert len(connections) >= 3
    assert [line for line in log.splitlines() if line.startswith("line ")] == [f"line {n}" for n in range(8)]


def drop_after_first_piece(monkeypatch, times):
    connections = []
    original = jobs.JobSubmissionClient.tail_job_logs

    async def tail(self, job_id):
        connections.append(job_id)
        async for piece in original(self, job_id):
            yield piece
            if len(connections) <= times:
                raise aiohttp.ClientConnectionError("the wire was cut")

    monkeypatch.setattr(jobs.JobSubmissionClient, "tail_job_logs", tail)
    return connections


def test_ctrl_c_while_following_leaves_the_job_running_and_says_how_to_stop_it(cluster, monkeypatch):
    run_python(monkeypatch, "import time; print('here', flush=True); time.sleep(300)")
    job = submit(cluster)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "_follow", interrupted)
    with pytest.raises(jobs.StoppedFollowing, match=f"tuneserve stop {job.submission_id}"):
        list(jobs.follow(job.submission_id))
    assert not jobs.get(job.submission_id).has_ended
    jobs.stop(job.submission_id)


def test_jobs_are_listed_with_the_command_that_was_submitted(cluster, monkeypatch):
    run_python(monkeypatch, "pass")
    job = submit(cluster, "sweep", "train.epochs=1")
    listed = {each.submission_id: each for each in jobs.all_jobs()}
    assert listed[job.submission_id].command == "sweep train.epochs=1"


def test_an_unknown_job_is_an_error_that_names_it(cluster):
    for call in (jobs.get, jobs.logs, jobs.stop, lambda id_: list(jobs.follow(id_))):
        with pytest.raises(ClusterError, match="knows no job 'no-such-job'"):
            call("no-such-job")


def test_a_foreign_token_is_refused_with_a_way_out(cluster, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    url = cluster.record.dashboard_url
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path))
    with pytest.raises(ClusterError, match="refuses the token"):
        jobs.all_jobs(address=url)


def test_a_job_on_a_cluster_elsewhere_finds_its_recipe_and_what_it_names(cluster, monkeypatch, tmp_path):
    # The same cluster under another name, reached with the user's own token, and a folder that plays the bucket.
    url = cluster.record.dashboard_url.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token_path()))
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(jobs, "require_shared", lambda *_: None)
    monkeypatch.setattr(jobs, "is_head_here", lambda address: False)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("{name: sms, data: {source: messages.csv}, model: {base: some/model}}")
    (tmp_path / "messages.csv").write_text("text,label\nhello,ham\n")
    code = (
        "import sys\n"
        "from common.location import filesystem\n"
        "from common.recipe_file import load_recipe\n"
        "recipe, *overrides = sys.argv[-2:]\n"
        "files, path = filesystem(load_recipe(recipe, overrides).data.source)\n"
        "print(files.open_input_stream(path).read().decode())\n"
    )
    run_python(monkeypatch, code)
    places = {"storage": (tmp_path / "bucket").as_uri(), "tracking_uri": "http://mlflow"}
    job, _ = jobs.submit(["run", str(recipe)], address=url, **places)
    log = "".join(jobs.follow(job.submission_id, address=url))
    assert "hello,ham" in log.splitlines(), log


def test_secrets_reach_a_job_by_the_clusters_environment_and_show_nowhere(cluster, monkeypatch):
    monkeypatch.setenv("A_SECRET", "s3cr3t-of-here")
    run_python(monkeypatch, f"import os; assert os.environ['CLUSTER_SECRET'] == {CLUSTER_SECRET[::-1]!r}[::-1]")
    log, job = follow_to_end(submit(cluster))
    assert job.exit_code == 0, log
    with jobs._talking_to(*jobs._target(None)) as client:
        details = str(client.list_jobs())
    logs = [path for path in (session_folder() / "session_latest" / "logs").rglob("*") if path.is_file()]
    assert any(job.submission_id in path.name for path in logs)
    token = token_path().read_text().strip()
    for secret in ("s3cr3t-of-here", CLUSTER_SECRET, token):
        assert secret not in details
        assert [path for path in logs if secret.encode() in path.read_bytes()] == []


def wait_for(condition, deadline_s=60.0):
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)
