"""Tokenised once: the three splits as Arrow files that every worker maps into memory.

A prepared folder is named by a digest of all that went into it (rows, tokenizer, `max_length`, base model), so that
it is found again instead of made again, and it is never seen half-written:

    <storage>/data/<digest16>/
        train.arrow validation.arrow test.arrow     input_ids list<int32>, label int32, text string
        tokenizer/                                  what `AutoTokenizer.from_pretrained` loads
        base_model/                                 only for `builtin:tiny_bert`
        prepared.json                               the fields of `PreparedData`
"""

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from common.base_model import hub_folder, load_tokenizer, pinned_revision
from common.builtin import tiny_bert
from common.dataset import SPLITS, Splits, digest_of
from common.errors import DataError, ModelError
from common.location import cached_copy, filesystem, join, local_path, whole_folder
from common.recipe import BUILTIN, Recipe

TINY_BERT = f"{BUILTIN}tiny_bert"

_LAYOUT = "2"
"""Part of every digest: raise it when the files change, so that older folders are not taken for new ones."""

_ROWS_PER_BATCH = 4096

_SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("label", pa.int32()), ("text", pa.string())])


@dataclass(frozen=True)
class PreparedData:
    """Tokenised splits in `storage`, and what a model needs to know of them."""

    uri: str
    """The folder, a path or URL."""
    digest: str
    """sha256 (hex) over rows, tokenizer, `max_length` and base model; its first 16 digits name the folder."""
    data_digest: str
    """`Splits.digest`: sha256 over the rows alone."""
    test_digest: str
    """sha256 over the test rows alone: which test split a score belongs to."""
    labels: tuple[str, ...]
    """A row's `label` is a place in this tuple."""
    num_rows: dict[str, int]
    """Rows of each split."""
    max_length: int
    """No `input_ids` is longer, special tokens included."""
    pad_token_id: int
    """What batches are padded with."""
    base_model: str
    """`model.base` of the recipe; see `local_base_model`."""
    source: str
    """`data.source` of the recipe."""
    base_revision: str | None = None
    """The commit of a Hub model that all of a job's processes load; None of a folder."""
    new_head: bool = False
    """Whether a head that the base model has is not taken over."""

    @property
    def storage(self) -> str:
        """The storage that holds it, a path or URL."""
        return self.uri.rsplit("/", 2)[0]

    @classmethod
    def load(cls, uri: str) -> "PreparedData":
        """Reads `prepared.json` in the folder `uri`. Raises DataError when there is none."""
        opened, path = filesystem(join(uri, "prepared.json"))
        try:
            with opened.open_input_stream(path) as stream:
                fields = json.loads(stream.read())
        except FileNotFoundError as error:
            raise DataError(f"{uri} is not a prepared data folder: it holds no prepared.json") from error
        return cls(**{**fields, "uri": uri, "labels": tuple(fields["labels"])})


def prepare(recipe: Recipe, splits: Splits, storage: str) -> PreparedData:
    """Tokenises `splits` for the recipe's model into a folder below `storage`, unless that is there already.

    Safe when several processes prepare the same at once. Raises ModelError when the base model cannot be used, and
    DataError when `storage` cannot be written.
    """
    with _base_model(recipe, splits) as (tokenizer, built):
        prepared = _describe(recipe, splits, storage, tokenizer)
        try:
            if not _is_there(prepared.uri):
                _write(prepared, splits, tokenizer, built)
        except OSError as error:
            raise DataError(f"prepared data cannot be written to {prepared.uri}: {error}; set storage") from error
    return prepared


def token_lengths(recipe: Recipe, splits: Splits) -> dict[str, list[int]]:
    """How many tokens each text of each split has before it is cut, special tokens included."""
    with _base_model(recipe, splits) as (tokenizer, _):
        return {
            split: [
                len(token_ids)
                for batch in splits[split].select(["text"]).to_batches(_ROWS_PER_BATCH)
                for token_ids in _token_ids(tokenizer, batch.column("text").to_pylist(), None)
            ]
            for split in SPLITS
        }


def local_folder(prepared: PreparedData) -> Path:
    """The prepared folder on this machine: itself, or a copy that is downloaded once.

    Raises DataError when it is a local folder of another machine.
    """
    folder = local_path(prepared.uri) or cached_copy(prepared.uri, "data", prepared.digest)
    if not folder.is_dir():
        raise DataError(f"{folder} is not on this machine; let storage be a shared folder, s3:// or gs://")
    return folder


def local_base_model(prepared: PreparedData) -> str:
    """The base model's folder on this machine; that of a Hub model is downloaded once.

    Raises ModelError when it is a folder of another machine, or the Hub does not give it.
    """
    if prepared.base_model == TINY_BERT:
        return str(local_folder(prepared) / "base_model")
    if prepared.base_model.startswith("/") and not Path(prepared.base_model).is_dir():
        raise ModelError(
            f"the model folder {prepared.base_model} is not on this machine; use a shared folder or the Hub"
        )
    if prepared.base_revision is not None:
        return hub_folder(prepared.base_model, prepared.base_revision)
    return prepared.base_model


def read_split(prepared: PreparedData, split: str) -> pa.Table:
    """A split's rows (`input_ids`, `label`, `text`), mapped into memory and not copied."""
    with pa.memory_map(str(local_folder(prepared) / f"{split}.arrow")) as file:
        return pa.ipc.open_file(file).read_all()


@contextmanager
def _base_model(recipe: Recipe, splits: Splits) -> Iterator[tuple[Any, Path | None]]:
    """The tokenizer, and the folder of the base model when it had to be built."""
    if recipe.model.base == TINY_BERT:
        with tempfile.TemporaryDirectory(prefix="tuneserve-") as folder:
            tiny_bert(splits.train.column("text").to_pylist(), Path(folder))
            yield load_tokenizer(folder, recipe.model.max_length), Path(folder)
    elif recipe.model.base.startswith(BUILTIN):
        raise ModelError(f"{recipe.model.base} does not ship with tuneserve; {TINY_BERT} does")
    else:
        yield load_tokenizer(recipe.model.base, recipe.model.max_length, recipe.model.revision), None


def _describe(recipe: Recipe, splits: Splits, storage: str, tokenizer: Any) -> PreparedData:
    model = recipe.model
    revision = None if model.base == TINY_BERT else pinned_revision(model.base, model.revision)
    parts = (
        _LAYOUT,
        splits.digest,
        model.base,
        revision or "",
        model.head,
        str(model.max_length),
        tokenizer.backend_tokenizer.to_str(),
    )
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return PreparedData(
        uri=join(storage, "data", digest[:16]),
        digest=digest,
        data_digest=splits.digest,
        test_digest=digest_of({"test": splits.test}),
        labels=splits.labels,
        num_rows={split: splits[split].num_rows for split in SPLITS},
        max_length=model.max_length,
        pad_token_id=tokenizer.pad_token_id,
        base_model=model.base,
        source=splits.source,
        base_revision=revision,
        new_head=model.head == "new",
    )


def _is_there(uri: str) -> bool:
    opened, path = filesystem(join(uri, "prepared.json"))
    return bool(opened.get_file_info(path).is_file)


def _write(prepared: PreparedData, splits: Splits, tokenizer: Any, built: Path | None) -> None:
    target = local_path(prepared.uri)
    if target is not None:
        with whole_folder(target) as folder:
            _write_files(folder, prepared, splits, tokenizer, built)
        return
    opened, path = filesystem(prepared.uri)
    with tempfile.TemporaryDirectory(prefix="tuneserve-") as temporary:
        folder = Path(temporary)
        _write_files(folder, prepared, splits, tokenizer, built)
        # Object stores cannot rename: the description goes last, and without it the folder does not count.
        description = (folder / "prepared.json").rename(Path(temporary).with_suffix(".json"))
        opened.create_dir(path)
        pyarrow.fs.copy_files(str(folder), path, destination_filesystem=opened)
        pyarrow.fs.copy_files(str(description), f"{path}/prepared.json", destination_filesystem=opened)
        description.unlink()


def _write_files(folder: Path, prepared: PreparedData, splits: Splits, tokenizer: Any, built: Path | None) -> None:
    # Saved first: tokenising sets truncation in the tokenizer, which would be saved with it.
    tokenizer.model_max_length = prepared.max_length
    tokenizer.save_pretrained(folder / "tokenizer")
    for split in SPLITS:
        _write_split(folder / f"{split}.arrow", splits[split], prepared, tokenizer)
    if built is not None:
        shutil.copytree(built, folder / "base_model")
    fields = json.dumps(dataclasses.asdict(prepared), indent=2, ensure_ascii=False)
    (folder / "prepared.json").write_text(fields, encoding="utf-8")


def _write_split(path: Path, rows: pa.Table, prepared: PreparedData, tokenizer: Any) -> None:
    places = {label: place for place, label in enumerate(prepared.labels)}
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        for batch in rows.to_batches(_ROWS_PER_BATCH):
            texts = batch.column("text").to_pylist()
            labels = [places[label] for label in batch.column("label").to_pylist()]
            columns = [_token_ids(tokenizer, texts, prepared.max_length), labels, texts]
            writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))


def _token_ids(tokenizer: Any, texts: list[str], max_length: int | None) -> list[list[int]]:
    """Each text's tokens, special ones included, cut to `max_length` when given and never padded."""
    if not texts:
        return []
    encoded = tokenizer(texts, truncation=max_length is not None, max_length=max_length, padding=False, verbose=False)
    token_ids: list[list[int]] = encoded["input_ids"]
    return token_ids
