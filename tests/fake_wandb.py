"""As much of W&B's server as its client needs to record runs, and a reader of what the client writes offline."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.http_server import answer_json, serving

KEY = "0123456789" * 4
BLOCK_BYTES = 32768


@dataclass
class FakeWandb:
    """What the server was told."""

    url: str = ""
    keys: set[str] = field(default_factory=set)
    """The `Authorization` headers."""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id, the variables of the request that made the run."""
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By id, the logged metrics."""
    status: int = 200
    """Of every answer."""


@contextmanager
def fake_wandb(status: int = 200) -> Iterator[FakeWandb]:
    """A server on this machine."""
    told = FakeWandb(status=status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.keys.add(self.headers["Authorization"])
            if told.status != 200:
                answer_json(self, {"errors": [{"message": "invalid key"}]}, told.status)
            elif self.path == "/graphql":
                answer_json(self, {"data": self._data(content["query"], content.get("variables") or {})})
            else:
                run_id = self.path.split("/")[-2]
                lines = content.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
                told.history.setdefault(run_id, []).extend(json.loads(line) for line in lines)
                answer_json(self, {})

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer_json(self, {})

        def _data(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
            if "upsertBucket" in query:
                run_id = variables["name"]
                told.runs.setdefault(run_id, variables)
                project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "team"}}
                bucket = {"id": "b", "name": run_id, "config": "{}", "project": project, "historyLineCount": 0}
                return {"upsertBucket": {"bucket": bucket, "inserted": True}}
            if "createRunFiles" in query:
                files = [{"name": name, "uploadUrl": f"{told.url}/file"} for name in variables["files"]]
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
            return {"serverInfo": {"features": []}}

    with serving(Handler) as told.url:
        yield told


@dataclass(frozen=True)
class WrittenRun:
    """A run as its `.wandb` file holds it."""

    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    exit_code: int | None


def written_runs(folder: Path) -> dict[str, WrittenRun]:
    """The runs below a folder, by name."""
    runs = [_read(file) for file in sorted(folder.rglob("*.wandb"))]
    return {run.name: run for run in runs}


def _read(file: Path) -> WrittenRun:
    from wandb.proto.wandb_internal_pb2 import Record

    records = [Record.FromString(content) for content in _records(file.read_bytes())]
    run = next(record.run for record in records if record.HasField("run"))
    history = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    exits = [record.exit.exit_code for record in records if record.HasField("exit")]
    return WrittenRun(
        name=run.display_name,
        group=run.run_group,
        job_type=run.job_type,
        tags=tuple(run.tags),
        config={item.key: json.loads(item.value_json) for item in run.config.update},
        history=history,
        exit_code=exits[0] if exits else None,
    )


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log (github.com/google/leveldb, doc/log_format.md) after W&B's header of 7 bytes."""
    position, parts = 7, b""
    while position + 7 <= len(content):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < 7:
            position += left
            continue
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        kind = content[position + 6]
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
