"""Bad input, as a user meets it: one clear message, exit code 2, nothing half-written."""

import json
import socket
from pathlib import Path

import pytest

from common.cluster import Connection
from scripts.cli import main
from tests.small_bases import write_finbert
from tests.small_job import write_recipe


@pytest.fixture
def recipe(tmp_path: Path, cluster: Connection, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return write_recipe(tmp_path / "given", num_rows=60)


def refused(capfd: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str) -> str:
    """Runs a command that must end with exit code 2 and write nothing; returns its message."""
    storage = tmp_path / "storage"
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--storage", str(storage)], standalone_mode=False)
    out, err = capfd.readouterr()
    assert ended.value.code == 2, err
    assert out == ""
    assert "Traceback" not in err
    written = [path for path in storage.rglob("*") if path.is_file()] if storage.exists() else []
    # A database or lock that was opened before the refusal holds no run.
    assert [path for path in written if "mlflow" not in path.name and not path.name.endswith(".lock")] == []
    return err


def with_rows(recipe: Path, content: str | bytes) -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    (recipe.parent / "headlines.csv").write_bytes(data)
    return recipe


def labelled(*labels: str) -> str:
    return "text,label\n" + "".join(f"text number {number},{label}\n" for number, label in enumerate(labels))


@pytest.mark.parametrize("command", ["check", "sweep", "run"])
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.epochs=0", "search.num_trials=0", "model.max_length=x"], "3 problems"),
        (["train.epoch=1"], "did you mean 'epochs'?"),
        (["data.source=none.csv"], "there is no file or folder"),
        (["data.text_column=body"], "has no column 'body'; it has"),
        (["model.base=no/such-model"], "no/such-model"),
        (["model.base=./no-such-folder"], "no-such-folder"),
        (["search.space.learning_rate.log_uniform=[1.0e-3, 1.0e-5]"], "swap them"),
        (["train.num_workers=64"], "train.num_workers 64"),
        (["search.max_concurrent=64"], "search.max_concurrent 64 is more than the cluster holds: 4 trial(s)"),
        (["model.lora={target_modules: [q_proj]}"], "'q_proj'; there are: query, key, value, dense"),
        (["search.num_trials=0"], "search.num_trials: input should be greater than 0"),
        (["search.space={}"], "names no setting to search"),
        (["search.metric=f2"], "'accuracy', 'macro_f1' or 'loss'"),
        (["search.warm_start=never-run"], "has no finished sweep 'never-run'"),
    ],
)
def test_wrong_settings(
    command: str,
    overrides: list[str],
    said: str,
    recipe: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert said in refused(capfd, tmp_path, command, str(recipe), *overrides)


@pytest.mark.parametrize("command", ["check", "train", "sweep", "run"])
def test_a_base_model_whose_head_has_other_labels(
    command: str, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = write_finbert(tmp_path / "finbert", ["profit", "loss"])
    said = refused(capfd, tmp_path, command, str(recipe), f"model.base={base}")
    assert (
        "is a classifier of positive, negative, neutral; of the data's labels it does not know bearish, bullish" in said
    )
    assert "model.head=new" in said


@pytest.mark.parametrize("command", ["check", "run"])
def test_an_endpoint_that_wants_a_gpu_where_there_is_none(
    command: str, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = refused(capfd, tmp_path, command, str(recipe), "serve.num_gpus=0.5")
    assert "serve.num_gpus 0.5: the cluster has a place for 0 of 1 replica(s) (4 CPUs, 0 GPUs on 1 node(s))" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\n", "no rows"),
        ("", "no rows"),
        (labelled(*["ham"] * 30), "two are needed"),
        (labelled(*["ham"] * 30, *["spam"] * 30, "rare"), "'rare'"),
        (labelled(*["ham"] * 30, *["spam"] * 30).encode() + "café,ham\n".encode("latin-1"), "data.encoding"),
    ],
)
def test_wrong_data(
    content: str | bytes, said: str, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capfd, tmp_path, "sweep", str(with_rows(recipe, content)))


@pytest.mark.parametrize("command", ["sweep", "train", "run", "deploy"])
def test_a_tracking_server_that_does_not_answer(
    command: str, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    uri = f"http://127.0.0.1:{closed}"
    assert "does not answer" in refused(capfd, tmp_path, command, str(recipe), f"tracking.mlflow_uri={uri}")


def test_a_test_split_that_was_trained_on_is_an_error_of_check_and_stops_run(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    leaking = [str(recipe), "data.test_source=" + str(recipe.parent / "headlines.csv")]
    assert "leakage" in refused(capfd, tmp_path, "run", *leaking)
    with pytest.raises(SystemExit) as ended:
        main(["check", *leaking, "--json"], standalone_mode=False)
    assert ended.value.code == 2
    findings = json.loads(capfd.readouterr().out)["findings"]
    assert "error" in {finding["severity"] for finding in findings}


def test_promoting_when_nothing_was_trained(recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "nothing to promote" in refused(capfd, tmp_path, "promote", str(recipe))


@pytest.mark.parametrize("command", ["deploy", "predict"])
def test_using_a_model_when_nothing_is_registered(
    command: str, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = ["a text"] if command == "predict" else []
    assert "tuneserve promote" in refused(capfd, tmp_path, command, str(recipe), *texts)


def test_a_gateway_port_that_is_taken(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))  # another machine's state: no cluster is up
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"port {port} is taken" in refused(capfd, tmp_path, "up", "--port", str(port))
