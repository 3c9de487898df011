"""Where labelled texts come from: a file, a folder, a URL, the Hub, or what ships with tuneserve."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.fs
import yaml

from common.builtin import finance_headlines
from common.errors import DataError
from common.hub import hub_or_cache, way_in
from common.location import filesystem, is_url, local_path
from common.recipe import BUILTIN, Data
from common.table_files import READERS, SCHEMA, as_strings, check_columns

DVC = ".dvc"
"""Ending of the note that DVC (https://dvc.org) keeps in place of a file or folder, beside which that lies."""

_SHARD = re.compile(r"-\d{5}-of-(\d{5})")
"""What the Hub calls the parts of a file."""


@dataclass(frozen=True)
class SourceRows:
    """What one source gave."""

    table: pa.Table
    """Columns `text` and `label`, strings."""
    version: str | None = None
    """`dvc md5 ...` as the note beside a file says that DVC tracks, `commit ...` of a Hub data set; else None."""


def read_source(data: Data, source: str) -> SourceRows:
    """All rows of `source`, which is one of `data`'s three.

    Labels are as the data writes them: integers `0`, a Hub data set's class labels by their names. Raises DataError
    when the source is not there, cannot be read, or lacks a column.
    """
    if source.startswith(BUILTIN):
        return SourceRows(_builtin(source))
    if is_url(source) or os.path.isabs(source):
        return SourceRows(_read_files(data, source), _dvc_version(source))
    if source == data.source:
        return _read_hub(data, "train")
    if is_url(data.source) or os.path.isabs(data.source) or data.source.startswith(BUILTIN):
        raise DataError(f"{source} is no file, and names a Hub split only when data.source is a Hub data set")
    return _read_hub(data, source)


def _dvc_version(source: str) -> str | None:
    """The checksum that DVC knows the file or folder by; the note is YAML (https://doc.dvc.org, `.dvc` files)."""
    folder = local_path(source)
    if folder is None:
        return None
    try:
        (out,) = yaml.safe_load(Path(f"{folder}{DVC}").read_bytes())["outs"]
        return f"dvc md5 {out['md5']}"
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError):  # no note, or another program's
        return None


def _builtin(source: str) -> pa.Table:
    if source != f"{BUILTIN}finance_headlines":
        raise DataError(f"{source} does not ship with tuneserve; {BUILTIN}finance_headlines does")
    return finance_headlines()


def _read_files(data: Data, source: str) -> pa.Table:
    opened, path = filesystem(source)
    try:
        files = _files_at(opened, path, source)
        tables = [_read_file(opened, file, data) for file in files]
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    return pa.concat_tables(tables)


def _files_at(opened: pyarrow.fs.FileSystem, path: str, source: str) -> list[str]:
    """The file itself, or the data files below a folder in the order of their names."""
    found = opened.get_file_info(path)
    if found.type == pyarrow.fs.FileType.NotFound:
        if opened.get_file_info(f"{path}{DVC}").is_file:
            raise DataError(f"{source} is tracked by DVC and not here; fetch it: dvc pull {source}{DVC}")
        raise DataError(f"there is no file or folder {source}; check data.source and the other sources")
    if found.type == pyarrow.fs.FileType.File:
        return [path]
    below = opened.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    names = sorted(file.path for file in below if file.type == pyarrow.fs.FileType.File)
    files = [name for name in names if _ending(name) in READERS and not name.rsplit("/", 1)[-1].startswith((".", "_"))]
    if not files:
        raise DataError(f"folder {source} holds no {', '.join(READERS)} file among its {len(names)} files")
    return files


def _read_file(opened: pyarrow.fs.FileSystem, path: str, data: Data) -> pa.Table:
    reader = READERS.get(_ending(path))
    if reader is None:
        raise DataError(f"{path} is of no kind that tuneserve reads; give it one of the endings {', '.join(READERS)}")
    with opened.open_input_stream(path) as stream:  # unpacks .gz, .bz2, .zst by the name's ending
        return reader(stream.read(), path, data)


def _ending(path: str) -> str:
    """The part of a file name that tells its kind: `.csv` for `a.csv` and `a.csv.gz`."""
    name = path.rsplit("/", 1)[-1].lower()
    for packed in (".gz", ".bz2", ".zst"):
        name = name.removesuffix(packed)
    return f".{name.rsplit('.', 1)[-1]}" if "." in name else ""


def _read_hub(data: Data, split: str) -> SourceRows:
    import datasets  # here, because only Hub sources need it and it takes a second

    name = data.source
    with hub_or_cache() as answers:
        try:
            rows = _hub_rows(data, split, answers)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            state = "the Hub does not give it" if answers else "the Hub does not answer and it is not in the cache"
            reason = str(error).splitlines()[0]
            raise DataError(
                f"data set {name!r}, split {split!r}: no such file here, and {state} ({reason}); check data.source"
                + way_in(error)
            ) from error
    check_columns(tuple(rows.column_names), f"Hub data set {name}", data)
    rows = rows.select_columns([data.text_column, data.label_column])
    label = rows.features[data.label_column]
    table = rows.with_format("arrow")[:].select([data.text_column, data.label_column])
    if isinstance(label, datasets.ClassLabel):
        names = pa.array(
            [None if value is None or value < 0 else label.names[value] for value in table.column(1).to_pylist()]
        )
        table = pa.table([table.column(0).cast(pa.string()), names], schema=SCHEMA)
    else:
        table = as_strings(table, f"Hub data set {name}", data)
    return SourceRows(table, _hub_version(rows))


def _hub_version(rows: Any) -> str | None:
    """The commit that a branch or tag stood for: it is in the URLs of the files, which the cache keeps too."""
    urls = " ".join(rows.info.download_checksums or ())
    commit = re.search(r"(?:@|/snapshots/)([0-9a-f]{40})/", urls)
    return f"commit {commit[1]}" if commit else None


def _hub_rows(data: Data, split: str, answers: bool) -> Any:
    """A split (`datasets.Dataset`) from the Hub, or, when it does not answer, from this machine's caches.

    There are two: that of the Hub, of files that were downloaded (`hf download`), in which `datasets` does not look;
    and that of `datasets`, of what it has read before, which does not tell revisions apart.
    """
    import datasets

    if answers:
        return datasets.load_dataset(data.source, revision=data.revision, split=split)
    try:
        folder = huggingface_hub.snapshot_download(
            data.source, repo_type="dataset", revision=data.revision, local_files_only=True
        )
        _check_shards(Path(folder))
        return datasets.load_dataset(folder, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError):
        if data.revision is None:
            with suppress(OSError):
                return datasets.load_dataset(data.source, split=split)
        raise


def _check_shards(folder: Path) -> None:
    """Raises OSError when of files that are parts of one some were not downloaded: the rest would pass for all."""
    for file in folder.rglob("*-of-*"):
        if shard := _SHARD.search(file.name):
            names = [_SHARD.sub(f"-{number:05d}-of-{shard[1]}", file.name) for number in range(int(shard[1]))]
            if missing := [name for name in names if not file.with_name(name).exists()]:
                raise OSError(f"of {file.parent.name}/{missing[0]} and its like some are missing in the cache")
