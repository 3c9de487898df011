"""The gateway's own log: one JSON object a line, for every request that failed and every wake.

It holds no texts, no keys and no paths as clients wrote them, since those may hold either.
"""

import json
import logging
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

FILE_NAME = "tuneserve_gateway.jsonl"

MAX_BYTES, NUM_OLD_FILES = 10 * 1024 * 1024, 4
"""A flood of refusals must not fill the disk."""

Field = str | int | float | None


class EventLog:
    """Writes events to a file in `folder`, and to `FILE_NAME.1` and so on what has grown old."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._handler = RotatingFileHandler(
            folder / FILE_NAME, maxBytes=MAX_BYTES, backupCount=NUM_OLD_FILES, encoding="utf-8"
        )

    def write(self, event: str, **fields: Field) -> None:
        """Appends one line; seconds are rounded to milliseconds, what is None is left out."""
        told = {name: round(value, 3) if isinstance(value, float) else value for name, value in fields.items()}
        line: dict[str, Field] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        line |= {name: value for name, value in told.items() if value is not None}
        self._handler.handle(logging.makeLogRecord({"msg": json.dumps(line, ensure_ascii=False)}))

    def close(self) -> None:
        """Closes the file."""
        self._handler.close()
