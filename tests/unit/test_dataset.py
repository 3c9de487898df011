import gzip

import datasets
import fsspec
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

import common.sources
from common.dataset import SPLITS, _sides, digest_of, load_splits, text_hash64
from common.errors import DataError, InputError
from common.recipe import Data, Split

ROWS = [(f"text {number}", "ab"[number % 2]) for number in range(100)]


def csv_of(rows):
    return "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows)


@pytest.fixture
def write(tmp_path):
    def write(content, name="data.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else csv_of(content), encoding="utf-8")
        return str(path)

    return write


def texts(splits):
    return {split: splits[split].column("text").to_pylist() for split in SPLITS}


@given(st.lists(st.text()), st.lists(st.text()), st.integers(0, 2**32 - 1))
def test_new_rows_move_no_old_ones_and_equal_texts_never_part(old, new, seed):
    split = Split(seed=seed)
    sides = _sides(old, split, set())
    assert list(_sides(old + new + old, split, set())[: len(old)]) == list(sides)
    assert len(set(zip(old, sides, strict=True))) == len(set(old))


def test_shares_are_about_those_of_the_recipe_and_the_seed_matters():
    many = [f"text {number}" for number in range(20_000)]
    sides = _sides(many, Split(validation=0.1, test=0.2), set())
    assert np.mean(sides == "validation") == pytest.approx(0.1, abs=0.01)
    assert np.mean(sides == "test") == pytest.approx(0.2, abs=0.01)
    assert (sides != _sides(many, Split(validation=0.1, test=0.2, seed=1), set())).any()


def test_a_ready_made_validation_file_moves_no_test_row():
    many = [f"text {number}" for number in range(1000)]
    alone, with_file = _sides(many, Split(), set()), _sides(many, Split(), {"validation"})
    assert ((alone == "test") == (with_file == "test")).all()
    assert set(with_file) == {"train", "test"}


def test_hashes_are_the_same_on_every_machine():
    # From coreutils: printf %s TEXT | b2sum -l 64
    reference = {"": "e4a6a0577479b2b4", "abc": "d8bb14d833d59559", "Åland": "31bec492b79fed85"}
    expected = [int.from_bytes(bytes.fromhex(digest), "little") for digest in reference.values()]
    assert text_hash64(list(reference)).tolist() == expected
    assert text_hash64(["abc"], seed=1) != text_hash64(["abc"])


def test_every_row_is_in_one_split_with_sorted_labels(write):
    splits = load_splits(Data(source=write(ROWS)))
    found = texts(splits)
    assert sorted(text for side in found.values() for text in side) == sorted(text for text, _ in ROWS)
    assert all(found.values())
    assert splits.labels == ("a", "b")


def test_ready_made_files_are_taken_as_they_are(write):
    ready = [("text 1", "b"), ("text 1", "b"), ("other", "a")]
    splits = load_splits(
        Data(source=write(ROWS), validation_source=write(ready, "v.csv"), test_source=write(ready[:2], "t.csv"))
    )
    assert texts(splits)["validation"] == ["text 1", "text 1", "other"]
    assert texts(splits)["test"] == ["text 1", "text 1"]
    assert splits.train.num_rows == len(ROWS)


def test_the_digest_follows_rows_order_and_side():
    def digest(texts, labels, split="train"):
        return digest_of({split: pa.table({"text": texts, "label": labels})})

    digests = {
        digest(["ab", "c"], ["x", "y"]),
        digest(["a", "bc"], ["x", "y"]),
        digest(["c", "ab"], ["y", "x"]),
        digest(["ab", "c"], ["x", "x"]),
        digest(["ab", "c"], ["x", "y"], "test"),
    }
    assert len(digests) == 5
    assert digest(["ab", "c"], ["x", "y"]) in digests


def test_labels_get_the_names_of_the_recipe(write):
    source = write([(text, "01"[number % 2]) for number, (text, _) in enumerate(ROWS)])
    assert load_splits(Data(source=source, label_names={"0": "ham", "1": "spam"})).labels == ("ham", "spam")


def test_empty_texts_are_left_out_and_counted(write):
    splits = load_splits(Data(source=write([*ROWS, ("", "a"), ("  ", "b")])))
    assert splits.num_empty == 2
    assert sum(splits[split].num_rows for split in SPLITS) == len(ROWS)


def test_a_folder_is_read_whole_in_the_order_of_names(write, tmp_path):
    write(ROWS[:50], "folder/b.csv")
    write('{"text": "first", "label": "a"}', "folder/a.jsonl")
    write("not data", "folder/README.md")
    write("not,data", "folder/_hidden.csv")
    splits = load_splits(Data(source=str(tmp_path / "folder")))
    assert sum(splits[split].num_rows for split in SPLITS) == 51


def test_files_come_in_the_order_of_their_names(write, tmp_path):
    names = sorted(f"{number * 7919 % 1000}" for number in range(30))
    for name in names[::-1]:
        write([(name, "x")], f"folder/{name}.csv")
    table = common.sources.read_source(Data(source="unused"), str(tmp_path / "folder")).table
    assert table.column("text").to_pylist() == names


def test_packed_files_and_urls_are_read(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(csv_of(ROWS).encode()))
    with fsspec.open("memory://test_dataset/a.csv", "w") as file:
        file.write(csv_of(ROWS))
    sources = (str(tmp_path / "a.csv.gz"), f"file://{tmp_path}/a.csv.gz", "memory://test_dataset/a.csv")
    assert len({load_splits(Data(source=source)).digest for source in sources}) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/a.csv", "there is no file or folder /nowhere/a.csv"),
        ("nope://a.csv", "cannot be opened"),
        ("builtin:nope", "does not ship"),
    ],
)
def test_a_source_that_is_not_there_is_an_error(source, message):
    with pytest.raises(InputError, match=message):
        load_splits(Data(source=source))


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("", {}, "holds no rows"),
        ("text,label\n", {}, "holds no rows"),
        (",a\n", {"column_names": ("text", "label")}, "all 1 rows have an empty 'text'"),
        ([(text, "a") for text, _ in ROWS], {}, "all 100 rows have the label 'a'; two are needed"),
        ([*ROWS, ("lonely", "c")], {}, "1 label with only one row: 'c'"),
        ([*ROWS, ("unlabelled", "")], {}, "1 row without a label, the first is record 101"),
        (ROWS, {"label_names": {"a": "x"}}, "1 label that data.label_names does not name: 'b'"),
        (ROWS, {"label_names": {"a": "x", "b": "x"}}, "gives 'a', 'b' the one name 'x'"),
        (ROWS, {"validation_source": "validation"}, "names a Hub split only when"),
        (ROWS, {"text_column": "label"}, "must differ"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_an_error(write, content, settings, message):
    with pytest.raises(DataError, match=message):
        load_splits(Data(source=write(content), **settings))


def test_a_label_that_training_lacks_is_an_error(write):
    with pytest.raises(DataError, match="the test rows hold 1 label that the training rows lack: 'z'; those"):
        load_splits(Data(source=write(ROWS), test_source=write([("new", "z")], "t.csv")))


def test_a_class_without_training_rows_is_an_error_that_names_a_better_seed(write):
    rare = next(text for text in map(str, range(1000)) if _sides([text], Split(), set())[0] == "test")
    source = write([*ROWS, (rare, "rare"), (rare, "rare")])
    with pytest.raises(DataError, match=r"none of the 2 rows labelled 'rare'.*data.split.seed=(\d+)") as error:
        load_splits(Data(source=source))
    seed = int(str(error.value).split("data.split.seed=")[2].split(",")[0])
    assert "rare" in load_splits(Data(source=source, split=Split(seed=seed))).labels


def test_a_hub_data_set_gives_its_class_names(monkeypatch):
    label = datasets.ClassLabel(names=["ham", "spam"])
    rows = datasets.Dataset.from_dict(
        {"id": list(range(100)), "label": [number % 2 for number in range(100)], "text": [text for text, _ in ROWS]},
        features=datasets.Features(
            {
                "id": datasets.Value("int64"),
                "label": label,
                "text": datasets.Value("string"),
            }
        ),
    )
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **settings: asked.append((args, settings)) or rows)
    monkeypatch.setattr("common.hub.hub_answers", lambda: True)
    splits = load_splits(Data(source="org/sms", validation_source="dev", revision="v1"))
    assert splits.labels == ("ham", "spam")
    assert splits.validation.num_rows == 100
    assert asked == [(("org/sms",), {"revision": "v1", "split": split}) for split in ("train", "dev")]
    assert splits.versions == {}

    commit = "0123456789abcdef" * 2 + "01234567"
    rows.info.download_checksums = {f"hf://datasets/org/sms@{commit}/train.csv": {"num_bytes": 1, "checksum": None}}
    assert load_splits(Data(source="org/sms")).versions == {"org/sms": f"commit {commit}"}


def test_what_dvc_says_of_a_file_is_noted_and_what_is_no_note_of_its_is_not(write):
    source = write(ROWS)
    assert load_splits(Data(source=source)).versions == {}
    note = write(
        "outs:\n- md5: 22a1a2931c8370d3aeedd7183606fd7f\n  size: 14\n  hash: md5\n  path: data.csv\n", "data.csv.dvc"
    )
    assert load_splits(Data(source=source)).versions == {source: "dvc md5 22a1a2931c8370d3aeedd7183606fd7f"}
    for other in ("", "outs: 3", "a: [", "outs: []"):
        write(other, "data.csv.dvc")
        assert load_splits(Data(source=source)).versions == {}
    assert note == f"{source}.dvc"


def test_an_unreachable_hub_is_told_at_once(monkeypatch):
    monkeypatch.setattr("common.hub.hub_answers", lambda: False)
    with pytest.raises(DataError, match="the Hub does not answer and it is not in the cache"):
        common.sources.read_source(Data(source="nobody/nothing-at-all"), "nobody/nothing-at-all")
