import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from transformers import AutoTokenizer

import common.tokenised
from common.builtin import tiny_bert
from common.dataset import SPLITS, load_splits
from common.errors import DataError, ModelError
from common.recipe import Recipe
from common.tokenised import PreparedData, local_base_model, local_folder, prepare, read_split, token_lengths

MAX_LENGTH = 8


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "data.csv"
    rows = (f"{'a longer ' * (number % 5)}text {number},{'ab'[number % 2]}\n" for number in range(100))
    file.write_text("text,label\n" + "".join(rows))
    return load_splits(recipe_for("builtin:tiny_bert", str(file)).data)


@pytest.fixture(scope="module")
def base(tmp_path_factory, splits):
    folder = tmp_path_factory.mktemp("base")
    tiny_bert(splits.train.column("text").to_pylist(), folder)
    return folder


def recipe_for(base, source="unused", max_length=MAX_LENGTH):
    return Recipe.model_validate(
        {"name": "test", "data": {"source": source}, "model": {"base": str(base), "max_length": max_length}}
    )


def test_every_row_is_there_tokenised_cut_and_not_padded(splits, base, tmp_path):
    prepared = prepare(recipe_for(base), splits, str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(local_folder(prepared) / "tokenizer")
    for split in SPLITS:
        rows, texts = read_split(prepared, split), splits[split].column("text").to_pylist()
        expected = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
        labels = [prepared.labels[place] for place in rows.column("label").to_pylist()]
        assert rows.column("text").to_pylist() == texts
        assert labels == splits[split].column("label").to_pylist()
        assert rows.column("input_ids").to_pylist() == expected
        assert prepared.num_rows[split] == rows.num_rows
    lengths = {len(ids) for ids in read_split(prepared, "train").column("input_ids").to_pylist()}
    assert max(lengths) == MAX_LENGTH
    assert len(lengths) > 1


def test_rows_are_mapped_and_not_copied(splits, base, tmp_path):
    prepared = prepare(recipe_for(base), splits, str(tmp_path))
    before = pa.total_allocated_bytes()
    rows = read_split(prepared, "train")
    assert rows.nbytes > 1000
    assert pa.total_allocated_bytes() == before


def test_preparing_again_finds_the_folder(splits, base, tmp_path, monkeypatch):
    first = prepare(recipe_for(base), splits, str(tmp_path))
    monkeypatch.setattr(common.tokenised, "_write", lambda *_: pytest.fail("tokenised again"))
    assert prepare(recipe_for(base), splits, str(tmp_path)) == first
    assert PreparedData.load(first.uri) == first


def test_the_small_bert_is_built_into_the_folder_and_found_again(splits, tmp_path):
    recipe = recipe_for("builtin:tiny_bert")
    prepared = prepare(recipe, splits, str(tmp_path))
    assert prepare(recipe, splits, str(tmp_path)) == prepared
    assert local_base_model(prepared) == str(local_folder(prepared) / "base_model")
    assert (local_folder(prepared) / "base_model" / "model.safetensors").is_file()


def test_rows_max_length_and_model_each_change_the_digest(splits, base, tmp_path):
    other_base = tmp_path / "other"
    shutil.copytree(base, other_base)
    fewer = dataclasses.replace(splits, digest="another")
    prepared = [
        prepare(recipe_for(base), splits, str(tmp_path)),
        prepare(recipe_for(base), fewer, str(tmp_path)),
        prepare(recipe_for(base, max_length=9), splits, str(tmp_path)),
        prepare(recipe_for(other_base), splits, str(tmp_path)),
    ]
    assert len({each.uri for each in prepared}) == 4


def test_a_failed_preparation_leaves_nothing(splits, base, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(common.tokenised, "_write_split", fail)
    with pytest.raises(DataError, match="disk full; set storage"):
        prepare(recipe_for(base), splits, str(tmp_path))
    assert list((tmp_path / "data").iterdir()) == []


def test_several_may_prepare_at_once(splits, base, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        prepared = list(pool.map(lambda _: prepare(recipe_for(base), splits, str(tmp_path)), range(4)))
    assert len({each.digest for each in prepared}) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == [prepared[0].digest[:16]]
    assert read_split(prepared[0], "train").num_rows == splits.train.num_rows


def test_remote_storage_is_copied_here_once(splits, base, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))
    prepared = prepare(recipe_for(base), splits, "memory://test_tokenised")
    assert prepared.uri == f"memory://test_tokenised/data/{prepared.digest[:16]}"
    assert PreparedData.load(prepared.uri) == prepared
    rows = read_split(prepared, "test")
    assert rows.column("text").to_pylist() == splits.test.column("text").to_pylist()
    monkeypatch.setattr("pyarrow.fs.copy_files", lambda *_, **__: pytest.fail("downloaded again"))
    assert local_folder(prepared).is_relative_to(tmp_path / "cache")


def test_lengths_are_those_before_cutting(splits, base):
    lengths = token_lengths(recipe_for(base), splits)
    assert {split: len(lengths[split]) for split in SPLITS} == {split: splits[split].num_rows for split in SPLITS}
    assert max(lengths["train"]) > MAX_LENGTH


def without(name):
    def remove(folder):
        (folder / name).unlink()

    return remove


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "there is no model folder"),
        (without("config.json"), r"holds no config\.json"),
        (without("model.safetensors"), "holds no weights"),
        (lambda folder: (folder / "config.json").write_text("{}"), "cannot be loaded"),
    ],
)
def test_a_base_model_that_cannot_be_used_is_an_error(splits, base, tmp_path, damage, message):
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    damage(broken)
    with pytest.raises(ModelError, match=message):
        prepare(recipe_for(broken), splits, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_max_length_beyond_the_model_is_an_error(splits, base, tmp_path):
    with pytest.raises(ModelError, match="max_length 513 is above the 512 tokens"):
        prepare(recipe_for(base, max_length=513), splits, str(tmp_path))


def test_an_unreachable_hub_is_told_at_once(splits, tmp_path, monkeypatch):
    monkeypatch.setattr("common.hub.hub_answers", lambda: False)
    with pytest.raises(ModelError, match="is no folder here, and the Hugging Face Hub does not answer"):
        prepare(recipe_for("nobody/nothing-at-all"), splits, str(tmp_path))


def test_data_and_models_of_another_machine_are_named(splits, base, tmp_path):
    prepared = prepare(recipe_for(base), splits, str(tmp_path))
    with pytest.raises(DataError, match="is not on this machine"):
        local_folder(dataclasses.replace(prepared, uri="/nowhere/data"))
    with pytest.raises(ModelError, match="is not on this machine"):
        local_base_model(dataclasses.replace(prepared, base_model="/nowhere/model"))
