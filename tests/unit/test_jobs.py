import io
import re
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.job_submission import JobStatus

from common import code_archive, job_inputs, job_result, jobs
from common.errors import ClusterError, InputError, RecipeError
from common.job_inputs import Carried, Destination, portable, require_shared

REMOTE = "http://cluster.example:8265"

RECIPE = """
name: sms
data: {source: messages.csv}
model: {base: some/model}
"""


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def here():
    return Destination(REMOTE, "/data", is_local=True)


@pytest.fixture
def elsewhere(tmp_path):
    # A shared file system stands in for a bucket.
    return Destination(REMOTE, (tmp_path / "bucket").as_uri(), is_local=False)


def test_on_this_machine_paths_become_absolute_and_nothing_else_changes(here):
    Path("r.yaml").write_text(RECIPE)
    for name in ("x.csv", "in.csv"):
        Path(name).write_text("x")
    Path("sms").mkdir()
    arguments = ["predict", "r.yaml", "data.source=x.csv", "model.base=some/model", "--file", "in.csv"]
    arguments += ["--out=out.csv", "sms", "a text", "train.epochs=1", "--json"]
    folder = str(Path.cwd())
    moved = [f"{folder}/r.yaml", f"data.source={folder}/x.csv", "model.base=some/model", "--file", f"{folder}/in.csv"]
    expected = ["predict", *moved, f"--out={folder}/out.csv", *arguments[7:]]
    assert portable(arguments, here) == Carried(expected, {})


@given(st.lists(st.text(max_size=20), max_size=5))
def test_arguments_that_name_no_file_pass_through(texts):
    unchanged = [text for text in texts if not text.startswith(("--", "~", ".")) and "/" not in text]
    unchanged = [text for text in unchanged if not text.endswith((".yaml", ".yml"))]
    destination = Destination(REMOTE, "s3://bucket", is_local=False)
    assert portable(["predict", *unchanged], destination).arguments == ["predict", *unchanged]


@pytest.mark.parametrize("is_local", [True, False])
def test_arguments_that_could_not_be_a_file_pass_through(is_local, tmp_path):
    texts = ["~bob-who-is-nobody owns it", "Profits rose again. " * 300, "name=", "data.text_column=~bob-who-is-nobody"]
    texts.append("data.text_column=" + "x" * 5000)
    destination = Destination(REMOTE, (tmp_path / "bucket").as_uri(), is_local)
    assert portable(["predict", *texts], destination).arguments == ["predict", *texts]


def test_a_file_of_a_user_who_does_not_exist_is_refused_by_name(here):
    with pytest.raises(InputError, match=r"~bob-who-is-nobody/in\.csv is not a path of this machine"):
        portable(["predict", "sms", "--file", "~bob-who-is-nobody/in.csv"], here)


def test_elsewhere_the_recipe_travels_with_the_code_and_what_it_names_through_the_storage(elsewhere, tmp_path):
    Path("r.yaml").write_text(RECIPE)
    Path("messages.csv").write_text("text,label\n")
    carried = portable(["run", "r.yaml", "train.epochs=1"], elsewhere)
    assert carried.files == {"inputs/r.yaml": RECIPE.encode()}
    assert carried.arguments[:3] == ["run", "inputs/r.yaml", "train.epochs=1"]
    (source,) = carried.arguments[3:]
    copied = re.escape(f"data.source={elsewhere.storage}") + r"/inputs/[0-9a-f]{16}/messages\.csv"
    assert re.fullmatch(copied, source)
    files = [path.read_text() for path in (tmp_path / "bucket").rglob("*") if path.is_file()]
    assert files == ["text,label\n"]
    assert portable(["run", "r.yaml", "train.epochs=1"], elsewhere) == carried


def test_an_override_of_the_source_replaces_the_recipes(elsewhere):
    Path("r.yaml").write_text(RECIPE)
    Path("other.csv").write_text("text,label\n")
    moved = portable(["run", "r.yaml", "data.source=other.csv"], elsewhere).arguments
    assert [argument.rpartition("/")[2] for argument in moved] == ["run", "r.yaml", "other.csv"]


@pytest.mark.parametrize("is_local", [True, False])
def test_a_recipe_that_is_wrong_is_refused_before_anything_is_sent(is_local):
    Path("r.yaml").write_text(RECIPE)
    destination = Destination(REMOTE, "s3://bucket", is_local)
    for arguments in (["run", "missing.yaml"], ["run", "r.yaml", "train.epoch=1"]):
        with pytest.raises(RecipeError):
            portable(arguments, destination)


def test_a_model_folder_of_this_machine_is_refused_by_name(elsewhere):
    Path("base").mkdir()
    Path("messages.csv").write_text("text,label\n")
    Path("r.yaml").write_text(RECIPE.replace("some/model", "base"))
    with pytest.raises(InputError, match=r"/base is on this machine.*Hub"):
        portable(["run", "r.yaml"], elsewhere)


def test_an_output_file_of_this_machine_is_refused_by_name(elsewhere):
    with pytest.raises(InputError, match=r"out\.csv is on this machine.*URL"):
        portable(["predict", "sms", "--out", "out.csv"], elsewhere)


def test_an_input_that_is_too_large_to_copy_is_refused_by_name(elsewhere, monkeypatch):
    monkeypatch.setattr(job_inputs, "MAX_UPLOAD_BYTES", 3)
    Path("in.csv").write_text("12345")
    with pytest.raises(InputError, match=r"in\.csv.*into the storage yourself"):
        portable(["predict", "sms", "--file", "in.csv"], elsewhere)


@pytest.mark.parametrize(
    ("storage", "tracking_uri", "problem"),
    [
        ("/data", "http://mlflow", "storage /data is a folder of this machine"),
        ("s3://bucket", "sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db is a file of this machine"),
        ("s3://bucket", "http://me:secret@mlflow", "holds a password"),
        ("s3://key:secret@bucket", "http://mlflow", "holds a password"),
    ],
)
def test_places_that_a_cluster_elsewhere_cannot_share_are_refused(storage, tracking_uri, problem):
    with pytest.raises(InputError, match=problem) as refused:
        require_shared(Destination(REMOTE, storage, is_local=False), tracking_uri)
    assert "secret" not in str(refused.value)


def test_places_that_only_the_cluster_knows_are_left_to_it():
    require_shared(Destination(REMOTE, None, is_local=False), None)
    assert jobs._with_places(["run", "r.yaml"], None, None) == ["run", "r.yaml"]
    Path("r.yaml").write_text(RECIPE.replace("messages.csv", "s3://bucket/messages.csv"))
    carried = portable(["run", "r.yaml"], Destination(REMOTE, None, is_local=False))
    assert carried == Carried(["run", "inputs/r.yaml"], {"inputs/r.yaml": Path("r.yaml").read_bytes()})


@pytest.mark.parametrize(
    ("setting", "problem"),
    [("storage: outputs", "storage .*/outputs is a folder"), ("tracking: {mlflow_uri: 'sqlite:///a.db'}", "a file of")],
)
def test_a_recipe_does_not_name_places_of_this_machine_to_a_cluster_elsewhere(setting, problem):
    Path("r.yaml").write_text(RECIPE.replace("messages.csv", "s3://bucket/messages.csv") + setting)
    with pytest.raises(InputError, match=problem):
        portable(["run", "r.yaml"], Destination(REMOTE, None, is_local=False))
    named = Destination(REMOTE, "s3://bucket", is_local=False)
    assert portable(["run", "r.yaml"], named, "http://mlflow").arguments == ["run", "inputs/r.yaml"]


def test_what_has_to_be_copied_needs_a_storage_that_both_know():
    Path("in.csv").write_text("text\n")
    with pytest.raises(InputError, match=r"in\.csv is on this machine.*--storage or TUNESERVE_STORAGE"):
        portable(["predict", "sms", "--file", "in.csv"], Destination(REMOTE, None, is_local=False))
    with pytest.raises(InputError, match="--json needs a place"):
        jobs._result_uri(["status", "--json"], "id", None)


def test_places_go_behind_the_command_unless_they_are_given():
    given_one = ["run", "r.yaml", "--storage=s3://mine"]
    assert jobs._with_places(given_one, "/s", "uri") == ["run", "--mlflow-uri", "uri", *given_one[1:]]
    assert jobs._with_places(["status"], "/s", "uri") == ["status", "--storage", "/s", "--mlflow-uri", "uri"]


def test_without_a_cluster_the_way_to_one_is_named():
    with pytest.raises(ClusterError, match="tuneserve up"):
        jobs.all_jobs()


@pytest.mark.parametrize(
    ("address", "variables", "target"),
    [
        ("head:8265", {}, "http://head:8265"),
        ("https://head/", {"RAY_API_SERVER_ADDRESS": "http://other"}, "https://head"),
        (None, {"RAY_API_SERVER_ADDRESS": "http://api:1", "RAY_ADDRESS": "http://ray:2"}, "http://api:1"),
        (None, {"RAY_ADDRESS": "http://ray:2"}, "http://ray:2"),
    ],
)
def test_the_address_is_the_given_one_then_the_environments(monkeypatch, address, variables, target):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert jobs._target(address) == (target, False)


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(ClusterError, match="http://HOST:8265"):
        jobs.all_jobs(address="ray://head:10001")


def test_nobody_answering_is_an_error_that_names_the_address(monkeypatch):
    with pytest.raises(ClusterError, match=r"no Jobs API answers at http://127\.0\.0\.1:9"):
        jobs.all_jobs(address="http://127.0.0.1:9")


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    for name in ("common/a.py", "common/__pycache__/a.pyc", "serve/b.py", "data/huge.csv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names_in(archive: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(archive)).namelist()


def test_the_archive_holds_the_code_and_what_is_given_and_nothing_else(project):
    archive = code_archive.pack(["common", "serve"], project, {"inputs/r.yaml": b""})
    assert names_in(archive) == ["common/a.py", "serve/b.py", "inputs/r.yaml"]


def test_equal_code_makes_an_equal_archive_and_changed_code_another(project):
    before = code_archive.pack(["common"], project)
    (project / "common" / "a.py").touch()
    assert code_archive.pack(["common"], project) == before
    (project / "common" / "a.py").write_text("changed")
    assert code_archive.pack(["common"], project) != before


def test_code_that_is_too_large_is_refused_with_the_largest_files_named(project, monkeypatch):
    monkeypatch.setattr(code_archive, "MAX_BYTES", 10)
    with pytest.raises(InputError, match=r"Largest: common/a\.py"):
        code_archive.pack(["common", "serve"], project)


def test_the_archive_in_the_storage_is_named_by_its_content_and_written_once(tmp_path):
    uri = code_archive.code_archive(str(tmp_path / "storage"))
    path = Path(uri.removeprefix("file://"))
    written = path.stat().st_mtime_ns
    assert code_archive.code_archive(str(tmp_path / "storage")) == uri
    assert path.stat().st_mtime_ns == written
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    folders = {name.partition("/")[0] for name in names_in(path.read_bytes())}
    assert folders == {"common", "serve"}


def test_stdout_becomes_the_result_and_the_exit_code_is_passed_on(tmp_path):
    uri = str(tmp_path / "storage" / "jobs" / "x.json")
    code = "import sys; print('{}'); sys.exit(3)"
    done = subprocess.run(
        [sys.executable, "-m", "common.job_result", uri, sys.executable, "-c", code],
        cwd=job_result.__file__.rpartition("/common/")[0],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, b"")
    assert Path(uri).read_text() == "{}\n"


class Interrupted:
    """A Jobs API's client whose user presses Ctrl-C, or whose job does not end."""

    def get_job_info(self, submission_id):
        return SimpleNamespace(
            **dict.fromkeys(("metadata", "driver_exit_code", "start_time", "end_time", "message")),
            submission_id=submission_id,
            status=JobStatus.RUNNING,
            entrypoint="run",
        )

    def stop_job(self, submission_id): ...

    def tail_job_logs(self, submission_id):
        raise KeyboardInterrupt


@pytest.mark.parametrize(("address", "option"), [(None, ""), (REMOTE, f" --address {REMOTE}")])
def test_the_ways_on_lead_to_the_cluster_that_was_named(monkeypatch, address, option):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", REMOTE)
    monkeypatch.setattr(jobs, "_talking_to", lambda *_: nullcontext(Interrupted()))
    monkeypatch.setattr(jobs, "STOP_DEADLINE_S", 0.01)
    with pytest.raises(jobs.StoppedFollowing) as stopped:
        list(jobs.follow("j", address=address))
    assert str(stopped.value).endswith(
        f"follow it: tuneserve logs j --follow{option}, stop it: tuneserve stop j{option}"
    )
    with pytest.raises(ClusterError, match=re.escape(f"see `tuneserve logs j{option}`")):
        jobs.stop("j", address=address)
