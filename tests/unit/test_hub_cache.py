"""What a job needs of the Hub when it is away: nothing, once data and model are in this machine's cache."""

import io
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from common.base_model import hub_folder, load_tokenizer, pinned_revision
from common.dataset import load_splits
from common.errors import DataError, ModelError
from common.recipe import Data, Recipe
from common.tokenised import PreparedData, local_base_model, prepare
from tests.candidates import prepare_texts
from tests.hub_cache import COMMIT, cached, go_offline
from tests.training_data import LABELS
from tune.pretrained import load_base

CARD = b"""---
configs:
- config_name: default
  data_files: [{split: train, path: data/train-*}, {split: test, path: data/test-*}]
dataset_info:
  features:
  - {name: title, dtype: string}
  - name: labels
    dtype: {class_label: {names: {'0': negative, '1': neutral, '2': positive}}}
---
"""
NEWER = COMMIT[::-1]
NEWS = Data(source="org/news", test_source="test", text_column="title", label_column="labels")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    go_offline(monkeypatch, tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    hub_folder.cache_clear()
    return tmp_path / "hub"


def parquet(split: str, rows: range) -> bytes:
    table = pa.table({"title": [f"{split} {row}" for row in rows], "labels": [row % 3 for row in rows]})
    written = io.BytesIO()
    pyarrow.parquet.write_table(table, written)
    return written.getvalue()


def news(*missing: str) -> dict[str, bytes]:
    files = {
        "README.md": CARD,
        "data/train-00000-of-00002.parquet": parquet("train", range(60)),
        "data/train-00001-of-00002.parquet": parquet("train", range(60, 120)),
        "data/test-00000-of-00001.parquet": parquet("test", range(9)),
    }
    return {name: content for name, content in files.items() if name not in missing}


def test_a_downloaded_data_set_is_read_without_the_hub_with_its_class_names_and_splits(cache: Path) -> None:
    cached(cache, "datasets", "org/news", news())
    splits = load_splits(NEWS)
    assert splits.labels == ("negative", "neutral", "positive")
    assert splits.train.num_rows + splits.validation.num_rows == 120
    assert splits.test.column("text").to_pylist()[:2] == ["test 0", "test 1"]


def test_a_data_sets_revision_is_the_one_that_is_read(cache: Path) -> None:
    cached(cache, "datasets", "org/news", news(), COMMIT)
    cached(
        cache, "datasets", "org/news", news() | {"data/test-00000-of-00001.parquet": parquet("new", range(9))}, NEWER
    )
    old, new = (load_splits(NEWS.model_copy(update={"revision": revision})) for revision in (COMMIT, "main"))
    assert [splits.test.column("text")[0].as_py() for splits in (old, new)] == ["test 0", "new 0"]


def test_a_data_set_that_was_downloaded_in_part_does_not_pass_for_the_whole(cache: Path) -> None:
    cached(cache, "datasets", "org/news", news("data/train-00001-of-00002.parquet"))
    with pytest.raises(DataError, match=r"train-00001-of-00002.parquet and its like some are missing"):
        load_splits(NEWS)


@pytest.fixture
def model_files(tmp_path: Path) -> dict[str, bytes]:
    _, prepared = prepare_texts(tmp_path / "made")
    folder = Path(prepared.base_model)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def prepared_from_hub(tmp_path: Path, revision: str | None = None) -> PreparedData:
    recipe = Recipe.model_validate(
        {
            "name": "words",
            "data": {"source": str(tmp_path / "made" / "texts.csv")},
            "model": {"base": "org/model", "max_length": 16, "revision": revision},
        }
    )
    return prepare(recipe, load_splits(recipe.data), str(tmp_path / "storage"))


def test_a_downloaded_model_is_loaded_without_the_hub(
    cache: Path, tmp_path: Path, model_files: dict[str, bytes]
) -> None:
    cached(cache, "models", "org/model", model_files)
    model = load_base(prepared_from_hub(tmp_path))
    stored = load_file(tmp_path / "made" / "base" / "model.safetensors")
    for name, parameter in model.base_model.named_parameters():
        assert torch.equal(parameter, stored[f"bert.{name}"])


def test_weights_in_the_old_format_are_read_from_the_cache_too(
    cache: Path, tmp_path: Path, model_files: dict[str, bytes]
) -> None:
    stored = load_file(tmp_path / "made" / "base" / "model.safetensors")
    torch.save(stored, tmp_path / "pytorch_model.bin")
    del model_files["model.safetensors"]
    cached(
        cache, "models", "org/model", model_files | {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()}
    )
    model = load_base(prepared_from_hub(tmp_path))
    for name, parameter in model.base_model.named_parameters():
        assert torch.equal(parameter, stored[f"bert.{name}"])


def test_all_processes_of_a_job_load_the_commit_that_the_revision_stood_for_when_it_began(
    cache: Path, tmp_path: Path, model_files: dict[str, bytes]
) -> None:
    cached(cache, "models", "org/model", model_files, COMMIT)
    begun = prepared_from_hub(tmp_path)
    cached(cache, "models", "org/model", model_files | {"config.json": b"{}"}, NEWER)  # somebody pushes
    assert begun.base_revision == COMMIT
    assert PreparedData.load(begun.uri) == begun
    assert Path(local_base_model(begun)).name == COMMIT
    assert load_base(begun).config.id2label == dict(enumerate(LABELS))


def test_a_models_revision_is_the_one_that_is_loaded_and_makes_other_prepared_data(
    cache: Path, tmp_path: Path, model_files: dict[str, bytes]
) -> None:
    cached(cache, "models", "org/model", model_files, COMMIT)
    cached(cache, "models", "org/model", model_files, NEWER)
    old, new = prepared_from_hub(tmp_path, COMMIT), prepared_from_hub(tmp_path)
    assert (old.base_revision, new.base_revision) == (COMMIT, NEWER)
    assert old.uri != new.uri
    assert pinned_revision("org/model", COMMIT) == COMMIT


def test_a_model_or_revision_that_the_cache_lacks_is_said(cache: Path, model_files: dict[str, bytes]) -> None:
    cached(cache, "models", "org/model", model_files)
    with pytest.raises(ModelError, match=r"'org/other' is no folder here, and the Hugging Face Hub does not answer"):
        load_tokenizer("org/other", 16)
    with pytest.raises(ModelError, match=r"'org/model' at model.revision 'v2' .*its cache does not hold it"):
        load_tokenizer("org/model", 16, "v2")


def test_a_model_whose_weights_were_not_downloaded_is_said(cache: Path, model_files: dict[str, bytes]) -> None:
    del model_files["model.safetensors"]
    cached(cache, "models", "org/model", model_files)
    with pytest.raises(ModelError, match="holds no weights"):
        hub_folder("org/model", COMMIT)
