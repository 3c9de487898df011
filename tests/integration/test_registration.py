"""A registered model as MLflow's generic `pyfunc` loads it."""

import ast
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel

from tests.training_data import LABELS, write_base_model, write_data
from tune.registration import write_model

TEXTS = ["w1 w2 w3", "w21 w22", "w41 " * 30]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("registered")
    checkpoint = write_base_model(made / "checkpoint", labels=LABELS)
    tokenizer = write_data(made / "data") / "tokenizer"
    for file in tokenizer.iterdir():
        file.rename(checkpoint / file.name)
    write_model(made / "model", checkpoint, max_length=16, examples=TEXTS[:2], card="# Words\n")
    return made / "model"


@pytest.fixture(scope="module")
def model(folder: Path) -> PyFuncModel:
    return mlflow.pyfunc.load_model(str(folder))


@pytest.fixture
def asked(model: PyFuncModel, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What the pipeline is called with."""
    pipeline, calls = model.get_raw_model(), []
    real = type(pipeline).__call__
    monkeypatch.setattr(
        type(pipeline),
        "__call__",
        lambda self, texts, **settings: calls.append(settings) or real(self, texts, **settings),
    )
    return calls


def test_the_signature_names_the_params_and_the_configuration_their_values(model: PyFuncModel) -> None:
    assert [param.name for param in model.metadata.signature.params] == ["batch_size", "device", "top_k"]
    expected = {"batch_size": 32, "device": None, "top_k": 1, "truncation": True, "max_length": 16}
    assert model.model_config == expected


def test_a_call_without_params_goes_by_the_configuration(model: PyFuncModel, asked: list[dict[str, object]]) -> None:
    found = model.predict(TEXTS)

    assert asked == [{"batch_size": 32, "top_k": 1, "truncation": True, "max_length": 16}]
    assert list(found.columns) == ["label", "score"]
    assert len(found) == len(TEXTS)


def test_params_of_a_call_overrule_the_configuration_for_that_call(
    model: PyFuncModel, asked: list[dict[str, object]]
) -> None:
    first = model.predict(TEXTS, params={"top_k": 1, "batch_size": 8, "device": "cpu"})
    model.predict(TEXTS)

    assert [call["batch_size"] for call in asked] == [8, 32]
    assert list(first.columns) == ["label", "score"]
    assert first["label"].isin(LABELS).all()


def test_a_configuration_given_at_loading_holds_for_all_calls(folder: Path, asked: list[dict[str, object]]) -> None:
    other = mlflow.pyfunc.load_model(str(folder), model_config={"batch_size": 2, "top_k": 3})

    assert len(other.predict(TEXTS)) == 3 * len(TEXTS)
    other.predict(TEXTS, params={"top_k": 1})
    assert [(call["batch_size"], call["top_k"]) for call in asked] == [(2, 3), (2, 1)]


def test_top_k_gives_each_texts_labels_the_best_first(model: PyFuncModel) -> None:
    best, two = model.predict(TEXTS), model.predict(TEXTS, params={"top_k": 2})

    assert two["label"][::2].tolist() == best["label"].tolist()
    scores = two["score"].to_numpy().reshape(len(TEXTS), 2)
    assert (scores[:, 0] >= scores[:, 1]).all()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"top_k": 0}, "top_k 0 is below 1"),
        ({"batch_size": 0}, "batch_size 0 is below 1"),
        ({"device": "toaster"}, "device 'toaster' cannot be used here"),
        ({"top_k": "two"}, "Invalid parameters found"),
    ],
)
def test_a_wrong_param_is_refused_by_name(params: dict[str, object], said: str, model: PyFuncModel) -> None:
    with pytest.raises(MlflowException, match=said):
        model.predict(TEXTS, params=params)
    assert len(model.predict(TEXTS)) == len(TEXTS)


def test_what_loads_it_travels_with_it_and_needs_nothing_of_tuneserve(folder: Path, model: PyFuncModel) -> None:
    (file,) = (folder / "code").iterdir()
    assert file.stem == type(model._model_impl).__module__
    nodes = list(ast.walk(ast.parse(file.read_text())))
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    assert {name.partition(".")[0] for name in imported} == {"typing", "mlflow", "pandas", "torch"}
