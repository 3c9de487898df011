"""Each workflow that tuneserve replaces: its shipped recipe from the Hub's cache, through the whole line in one
command, to an answer in the form that its clients ask for."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pyarrow.csv
import pyarrow.parquet
import pytest

from common.ray_head import free_port
from tests.hub_workflows import SENTIMENTS, put_news, put_sms, put_tweets, write_phrasebank
from tests.warm_command import ROOT

pytestmark = pytest.mark.slow

SHORT = ("train.epochs=1", "search.num_trials=3", "registry.quick_checks=[]")
"""Models of a few thousand numbers learn nothing that a quick check could ask."""

RECIPES = ROOT / "recipes"
Tuneserve = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the recipes need, and what they leave."""
    folder = tmp_path_factory.mktemp("workflows")
    put_news(folder / "hub", folder)
    put_sms(folder / "hub", folder)
    put_tweets(folder / "hub", folder)
    write_phrasebank(folder)
    shutil.copy(RECIPES / "financial_phrasebank.yaml", folder)
    return folder


@pytest.fixture(scope="module")
def tuneserve(folder: Path) -> Iterator[Tuneserve]:
    """The command as it is installed, which sees no Hub but its cache, and a cluster of its own; gives the JSON."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "HF_"))}
    environment |= {
        "TUNESERVE_HOME": str(folder / "home"),
        "TUNESERVE_STORAGE": str(folder / "storage"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_DATASETS_CACHE": str(folder / "datasets"),
    }

    def command(*arguments: str) -> Any:
        done = subprocess.run(
            [Path(sys.executable).with_name("tuneserve"), *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if "--json" in arguments else None

    try:
        command("up", "--port", str(free_port()))
        yield command
    finally:
        command("down")


def run(tuneserve: Tuneserve, recipe: Path, *overrides: str) -> dict[str, Any]:
    done: dict[str, Any] = tuneserve("run", str(recipe), *SHORT, *overrides, "--json")
    assert [trial["state"] for trial in done["sweep"]["trials"]] == ["complete"] * 3
    assert done["promote"]["promoted"]
    return done


def post(url: str, body: object, **headers: str) -> httpx.Response:
    return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)


def test_finbert_news_answers_with_every_labels_probability_under_the_alias_production(tuneserve: Tuneserve) -> None:
    done = run(tuneserve, RECIPES / "finbert_news.yaml")
    assert done["promote"]["alias"] == "production"
    answer = post(f"{done['deploy']['url']}/classify", {"text": "profit rose"}).json()
    assert sorted(answer["scores"]) == list(SENTIMENTS)
    assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-3)


def test_sms_spam_is_a_logged_model_with_signature_params_and_example_that_loads_again(
    tuneserve: Tuneserve, folder: Path
) -> None:
    done = run(tuneserve, RECIPES / "sms_spam.yaml")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/storage/mlflow.db")
    try:
        model = mlflow.pyfunc.load_model("models:/sms-spam@champion")
    finally:
        mlflow.set_tracking_uri(None)
    params = {param.name for param in model.metadata.signature.params}
    assert {"batch_size", "device", "top_k"} <= params
    assert model.input_example is not None
    assert model.predict(["profit rose"], params={"batch_size": 1})["label"][0] in ("ham", "spam")
    scored = post(f"{done['deploy']['url']}/invocations", {"inputs": ["profit rose"]}).json()
    assert scored["predictions"][0]["label"] in ("ham", "spam")


def test_financial_phrasebank_answers_the_model_apis_body_to_whoever_has_the_token(
    tuneserve: Tuneserve, folder: Path
) -> None:
    done = run(tuneserve, folder / "financial_phrasebank.yaml", "serve.auth=required")
    key = tuneserve("keys", "create", "app", "--endpoint", "financial-phrasebank", "--json")["key"]
    url, body = f"{done['deploy']['url']}/classify", {"data": {"sentence": "profit rose"}}
    assert post(url, body).status_code == 401
    assert post(url, body, authorization=f"Bearer {key}").json()["label"] in SENTIMENTS


def test_finance_tweets_adapters_are_searched_and_a_file_is_predicted(tuneserve: Tuneserve, folder: Path) -> None:
    done = run(tuneserve, RECIPES / "finance_tweets_lora.yaml")
    assert {"lora.r", "lora.alpha"} <= set(done["sweep"]["best"]["params"])
    texts = folder / "tweets.csv"
    texts.write_text('text\nprofit rose\n"sales fell\nin two lines"\n')
    out = folder / "scored.parquet"
    tuneserve("predict", str(RECIPES / "finance_tweets_lora.yaml"), *SHORT, "--file", str(texts), "--out", str(out))
    rows = pyarrow.parquet.read_table(out).to_pylist()
    assert [row["text"] for row in rows] == ["profit rose", "sales fell\nin two lines"]
    assert {row["predicted_label"] for row in rows} <= {"bearish", "bullish", "neutral"}


def test_retraining_on_more_rows_is_a_new_sweep_and_only_the_gate_moves_the_alias(
    tuneserve: Tuneserve, folder: Path
) -> None:
    """What a scheduled job does: the same command again, here with other rows in the file."""
    recipe, name = folder / "financial_phrasebank.yaml", "name=retrained"
    first = run(tuneserve, recipe, name)
    unchanged = run(tuneserve, recipe, name)
    assert unchanged["sweep"]["sweep_id"] == first["sweep"]["sweep_id"]

    data = folder / "all-data.csv"
    data.write_bytes(data.read_bytes() + b'\r\npositive,"profit rose again"\r\nnegative,"a loss again"')
    again = tuneserve("run", str(recipe), *SHORT, name, "--json")

    assert again["sweep"]["sweep_id"] != first["sweep"]["sweep_id"]
    assert again["check"]["data_sha256"] != first["check"]["data_sha256"]
    gate = again["promote"]["gate"]
    assert again["promote"]["version"] == 2
    assert again["promote"]["promoted"] == (gate["interval"][0] > 0)
    assert again["deploy"]["version"] == (2 if again["promote"]["promoted"] else 1)
