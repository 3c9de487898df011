"""What `predict` classifies, with which version, and what it refuses before it looks for one."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import serve.batch_prediction
from common.errors import InputError, RegistryError
from common.machines import Node, Resources
from common.recipe_file import shipped_recipes
from scripts import prediction
from tests.fake_registry import Asked, fake_registry

QUICKSTART = str(shipped_recipes()["quickstart"])


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TUNESERVE_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    """What a registry of tiny models was asked for."""
    registry, asked = fake_registry(tmp_path / "outputs")
    monkeypatch.setattr(prediction, "ModelRegistry", registry)
    return asked


def predict(target: str, *texts: str, **options: str) -> dict[str, Any]:
    given = dict.fromkeys(("storage", "mlflow_uri", "file", "out", "text_column")) | options
    return prediction.predict(target, texts, **given)


def test_texts_come_back_with_label_score_and_scores(asked: Asked) -> None:
    result = predict("models:/mood@champion", "good good", "bad")

    assert (result["model"], result["version"]) == ("mood", 7)
    assert [found["text"] for found in result["predictions"]] == ["good good", "bad"]
    assert [found["label"] for found in result["predictions"]] == ["good", "bad"]
    for found in result["predictions"]:
        assert found["score"] == found["scores"][found["label"]] == max(found["scores"].values())


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("models:/mood@canary", ("mood", "canary")),
        ("models:/mood/3", ("mood", 3)),
        (QUICKSTART, ("quickstart", "champion")),
    ],
)
def test_a_target_names_one_version(target: str, wanted: tuple[str, str | int], asked: Asked) -> None:
    predict(target, "good")
    assert asked == [wanted]


def test_overrides_change_the_recipe_and_are_not_classified(asked: Asked) -> None:
    result = predict(QUICKSTART, "registry.alias=canary", "good = good", "x=bad")

    assert asked == [("quickstart", "canary")]
    assert [found["text"] for found in result["predictions"]] == ["good = good", "x=bad"]


def test_with_a_model_uri_every_word_is_a_text(asked: Asked) -> None:
    assert [found["text"] for found in predict("models:/mood/3", "data=good")["predictions"]] == ["data=good"]


@pytest.mark.parametrize(
    ("texts", "file"),
    [((), {}), (("registry.alias=canary",), {}), (("good",), {"file": "in.csv", "out": "out.parquet"})],
)
def test_texts_or_a_file_are_needed_and_not_both(texts: tuple[str, ...], file: dict[str, str]) -> None:
    with pytest.raises(InputError, match="either texts to classify or --file FILE"):
        predict(QUICKSTART, *texts, **file)


@pytest.mark.parametrize(("out", "said"), [({}, "--out is missing"), ({"out": "out.xlsx"}, "--out out.xlsx")])
def test_a_files_predictions_need_a_file_to_go_to(out: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=rf"{said}: name the \.parquet or \.csv file"):
        predict(QUICKSTART, file="in.csv", **out)


@pytest.mark.parametrize("target", ["models:/mood", "models:/mood/latest", "models:/mood@", "models:/@champion"])
def test_what_is_no_model_uri_is_refused_with_what_one_looks_like(target: str) -> None:
    with pytest.raises(RegistryError, match=f"{target!r} is not a model; write models:/NAME@ALIAS"):
        predict(target, "good")


@pytest.mark.parametrize(
    ("words", "options", "column"),
    [
        ((QUICKSTART, "data.text_column=body"), {}, "body"),
        ((QUICKSTART, "data.text_column=body"), {"text_column": "subject"}, "subject"),
        (("models:/mood@champion",), {}, "text"),
    ],
)
def test_a_files_column_is_the_options_then_the_recipes(
    words: tuple[str, ...],
    options: dict[str, str],
    column: str,
    asked: Asked,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {}

    def predict_file(source: str, out: str, **settings: Any) -> int:
        given.update(settings, source=source, out=out)
        return 2

    monkeypatch.setattr(serve.batch_prediction, "predict_file", predict_file)
    monkeypatch.setattr(prediction, "connect", nullcontext)
    monkeypatch.setattr(prediction, "resources", lambda: Resources((Node(num_cpus=1, num_gpus=0),)))

    result = predict(*words, file="in.csv", out="new/out.parquet", **options)

    assert (result["rows"], result["out"]) == (2, str(tmp_path / "new" / "out.parquet"))
    assert (given["text_column"], given["source"], given["num_actors"]) == (column, str(tmp_path / "in.csv"), 1)
    assert given["out"] == result["out"]
