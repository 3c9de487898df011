"""Scoring logged texts with a candidate: where would it have answered otherwise? Needs no cluster."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.classifier import Classifier, Prediction, Text
from common.errors import InputError
from common.registry import ModelRegistry, ModelVersion
from scripts.display import say
from scripts.job import storage_location, tracking_location
from scripts.logged_requests import moment, one_line, open_log
from scripts.steps import Result
from serve.engine import fetch
from serve.request_files import RequestFiles
from serve.request_table import Row, from_table, shown, table

CHUNK_TEXTS = 1024
NUM_SHOWN = 20
"""Disagreements that people see; `--json` has all of them, `--out` all texts."""


def replay(
    name: str,
    *,
    version: int | None,
    alias: str | None,
    since: str,
    limit: int,
    out: str | None,
    storage: str | None,
    mlflow_uri: str | None,
) -> Result:
    """Scores what an endpoint answered since then with another version of its model; lists where they differ.

    Raises:
        InputError: when it is not clear which version or since when, or there is no text that can be scored.
        RegistryError: when there is no such version.
    """
    if (version is None) == (alias is None):
        raise InputError("name the candidate: either --version N or --alias ALIAS")
    if out is not None and not out.endswith(".parquet"):
        raise InputError(f"--out {out}: name a Parquet file, for example --out replay.parquet")
    begin = moment(since, datetime.now(UTC))
    logged = _readable(open_log(name, storage), name, begin, limit)
    place = storage_location(storage)
    registry = ModelRegistry(tracking_location(mlflow_uri, place))
    model = logged[-1]["model"]
    candidate = registry.by_alias(model, alias) if alias else registry.by_version(model, int(version or 0))
    found = _classify(Classifier.load(fetch(registry.fetchable_uri(candidate, place)), os.cpu_count() or 1), logged)
    compared = [Compared(row, prediction) for row, prediction in zip(logged, found, strict=True)]
    if out is not None:
        _write(Path(out).expanduser().absolute(), compared)
    return _told(name, candidate, compared, out)


@dataclass(frozen=True)
class Compared:
    """A logged answer beside the candidate's."""

    row: Row
    prediction: Prediction

    @property
    def agrees(self) -> bool:
        """Whether both gave the same label."""
        return bool(self.row["label"] == self.prediction.label)

    @property
    def told(self) -> Row:
        """As JSON has it."""
        return {
            **shown(self.row),
            "candidate_label": self.prediction.label,
            "candidate_score": self.prediction.score,
            "candidate_scores": self.prediction.scores,
        }


def _readable(files: RequestFiles, name: str, begin: datetime, limit: int) -> list[Row]:
    """The newest answers whose texts can be read, oldest first."""
    answered = pc.field("status") == 200
    rows = list(from_table(files.read(begin, where=answered & (pc.field("text_mode") != "hashed"), newest=limit)))
    if rows:
        return rows
    hashed = files.read(begin, columns=["time"], where=answered, newest=1).num_rows
    if hashed:
        raise InputError(
            f"the texts of {name!r} were logged as digests (serve.request_log.texts: hashed), and no model can read "
            "those; set it to redacted or plain, deploy, and replay what comes then"
        )
    raise InputError(f"{name!r} logged no answer since {begin:%Y-%m-%d %H:%M} UTC; name an earlier --since")


def _classify(classifier: Classifier, rows: Sequence[Row]) -> list[Prediction]:
    """A prediction for each row; equal texts are scored once."""
    wanted = [row["text"] if row["text_pair"] is None else (row["text"], row["text_pair"]) for row in rows]
    distinct: list[Text] = list(dict.fromkeys(wanted))
    found: dict[Text, Prediction] = {}
    for start in range(0, len(distinct), CHUNK_TEXTS):
        chunk = distinct[start : start + CHUNK_TEXTS]
        found.update(zip(chunk, classifier.classify(chunk), strict=True))
        if len(distinct) > CHUNK_TEXTS:
            say(f"  {len(found):,} of {len(distinct):,} texts")
    return [found[text] for text in wanted]


def _told(name: str, candidate: ModelVersion, compared: Sequence[Compared], out: str | None) -> Result:
    differing = sorted(
        (each for each in compared if not each.agrees),
        key=lambda each: -min(each.row["score"], each.prediction.score),  # where both were sure comes first
    )
    shifts = Counter((each.row["label"], each.prediction.label) for each in differing)
    agreement = 1 - len(differing) / len(compared)
    say(
        f"{candidate.name} version {candidate.version} agrees with {agreement:.1%} of {len(compared):,} answers since "
        f"{compared[0].row['time']:%Y-%m-%d %H:%M} UTC"
    )
    if any(each.row["text_mode"] == "redacted" for each in compared):
        say("Some texts were logged redacted: what was taken out may be why the candidate differs.")
    for (before, after), count in shifts.most_common():
        say(f"  {before} -> {after}: {count:,}")
    for each in differing[:NUM_SHOWN]:
        logged, text = each.row, one_line(each.row["text"], each.row["text_pair"])
        gave = f"{each.prediction.label} {each.prediction.score:.2f}"
        say(f"  v{logged['version']} {logged['label']} {logged['score']:.2f} -> {gave}  {text}")
    if len(differing) > NUM_SHOWN:
        say(f"  and {len(differing) - NUM_SHOWN:,} more: --json lists them")
    if out is not None:
        say(f"All {len(compared):,} texts with both answers are in {out}")
    return {
        "endpoint": name,
        "model": candidate.name,
        "version": candidate.version,
        "rows": len(compared),
        "agreement": agreement,
        "shifts": [{"from": before, "to": after, "count": count} for (before, after), count in shifts.most_common()],
        "disagreements": [each.told for each in differing],
        "out": out,
    }


def _write(path: Path, compared: Sequence[Compared]) -> None:
    """All rows of the log that were scored, with the candidate's answers."""
    found = [each.prediction for each in compared]
    written = table([each.row for each in compared])
    added = {
        "candidate_label": pa.array([prediction.label for prediction in found], pa.string()),
        "candidate_score": pa.array([prediction.score for prediction in found], pa.float64()),
        "candidate_scores": pa.array(
            [list(prediction.scores.items()) for prediction in found], pa.map_(pa.string(), pa.float64())
        ),
        "agrees": pa.array([each.agrees for each in compared], pa.bool_()),
    }
    for name, column in added.items():
        written = written.append_column(name, column)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        pq.write_table(written, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
