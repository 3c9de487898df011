"""`predict --file` in the middle of which the command is killed: another one does what is missing, and no more."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet as pq

from common.cluster import PROJECT_ROOT, Connection
from common.location import filesystem
from serve.batch_prediction import predict_file
from serve.input_file import PART_ROWS
from tests.tiny_model import build_engine

NUM_PARTS = 5
NUM_WRITTEN = 2

KILLED = f"""
import os, signal, sys
from common.cluster import connect
from serve.batch_prediction import predict_file
from serve.part_files import PartFiles

write, written = PartFiles.write, []

def write_and_die(self, number, rows):
    write(self, number, rows)
    written.append(number)
    if len(written) == {NUM_WRITTEN}:
        os.kill(os.getpid(), signal.SIGKILL)

PartFiles.write = write_and_die
with connect():
    source, out, uri = sys.argv[1:]
    predict_file(source, out, uri=uri, text_column="text", num_actors=1, on_rows=lambda done, rows: None)
"""


def test_a_killed_command_is_gone_on_with_and_its_file_is_the_same_row_by_row(
    cluster: Connection, bucket: str, tmp_path: Path
) -> None:
    uri = str(build_engine(tmp_path / "onnx"))
    source = str(tmp_path / "in.parquet")
    texts = ["good", "bad bad", "", None, "good bad good"] * ((NUM_PARTS - 1) * PART_ROWS // 5 + 7)
    pq.write_table(pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string())}), source)
    killed, whole = f"{bucket}/predictions/killed.parquet", str(tmp_path / "whole.csv")

    ended = subprocess.run(
        [sys.executable, "-c", KILLED, source, killed, uri],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == -9, ended.stderr.decode()[-2000:]
    assert b"Dataset" not in ended.stderr  # of which Ray Data tells its own log file
    told: list[tuple[int, int]] = []
    levels = [handler.level for handler in logging.getLogger("ray.data").handlers]
    num_rows = predict_file(
        source, killed, uri=uri, text_column="text", num_actors=2, on_rows=lambda *rows: told.append(rows)
    )

    assert num_rows == len(texts)
    assert [handler.level for handler in logging.getLogger("ray.data").handlers] == levels
    assert told[0][0] >= (NUM_WRITTEN - 1) * PART_ROWS
    assert len(told) == 1 + NUM_PARTS - NUM_WRITTEN
    assert told[-1] == (len(texts), len(texts))
    files, path = filesystem(killed)
    found = pq.read_table(path, filesystem=files)
    assert found.select(["id", "text"]).equals(pq.read_table(source))
    expected = {"good": "good", "bad bad": "bad", "good bad good": "good", "": "bad", None: None}
    assert found["predicted_label"].to_pylist() == [expected[text] for text in texts]
    assert not [info.path for info in files.get_file_info(pa.fs.FileSelector("bucket/predictions")) if not info.is_file]

    predict_file(source, whole, uri=uri, text_column="text", num_actors=1, on_rows=lambda *_: None)
    as_csv = pa.csv.read_csv(whole, convert_options=pa.csv.ConvertOptions(strings_can_be_null=True))
    assert as_csv["id"].equals(found["id"])
    assert as_csv["predicted_label"].equals(found["predicted_label"])
    assert as_csv["predicted_score"].equals(found["predicted_score"])
