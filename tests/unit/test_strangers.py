"""Recipes, base models and checkpoints of strangers: nothing in them is run."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from common.base_model import load_config, load_tokenizer
from common.errors import InputError, ModelError
from common.recipe_file import load_recipe
from tests.training_data import write_base_model
from tune.pretrained import load_classifier


class RunsOnLoad:
    """Pickled, it is a call that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self._mark),)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_base_model(tmp_path_factory.mktemp("base"))
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", model_max_length=32).save_pretrained(folder)
    return folder


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "code-of-strangers-ran"


@pytest.mark.parametrize(
    "document",
    [
        "name: !!python/object/apply:os.mkdir [MARK]",
        "!!python/object/apply:os.mkdir [MARK]",
        "name: x\ndata: {source: !!python/object/new:os.mkdir [MARK]}",
    ],
)
def test_a_recipe_runs_no_code(tmp_path: Path, mark: Path, document: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(document.replace("MARK", str(mark)))
    with pytest.raises(InputError, match="python/object"):
        load_recipe(str(recipe))
    assert not mark.exists()


def test_an_override_runs_no_code(tmp_path: Path, mark: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\ndata: {source: x.csv}\nmodel: {base: x}\n")
    with pytest.raises(InputError, match="python/object"):
        load_recipe(str(recipe), [f"name=!!python/object/apply:os.mkdir [{mark}]"])
    assert not mark.exists()


def test_a_model_that_brings_its_own_code_is_loaded_without_it(tmp_path: Path, base: Path, mark: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    (folder / "theirs.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    code = {"AutoConfig": "theirs.Config", "AutoModelForSequenceClassification": "theirs.Model"}
    for name, classes in (
        ("config.json", code),
        ("tokenizer_config.json", {"AutoTokenizer": ["theirs.T", "theirs.T"]}),
    ):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | {"auto_map": classes}))
    load_config(str(folder))
    load_tokenizer(str(folder), max_length=16)
    load_classifier(str(folder), ("a", "b"), pad_token_id=0)
    assert not mark.exists()


def test_a_model_that_only_its_own_code_can_load_is_refused(tmp_path: Path, base: Path, mark: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    (folder / "theirs.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    settings = json.loads((folder / "config.json").read_text())
    theirs = {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    (folder / "config.json").write_text(json.dumps(settings | theirs))
    with pytest.raises(ModelError, match=r"cannot be loaded"):
        load_config(str(folder))
    assert not mark.exists()


def test_pickled_weights_run_no_code(tmp_path: Path, base: Path, mark: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"weights": RunsOnLoad(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.*safetensors"):
        load_classifier(str(folder), ("a", "b"), pad_token_id=0)
    assert not mark.exists()
