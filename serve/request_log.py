"""Keeps what endpoints were asked and answered, where their recipe says so, off the event loop.

Each log has a thread of its own, so that a store that hangs holds up no request and no other log. What waits for it is
bounded: beyond that, texts are not logged, and counted as dropped. A request never fails for its log.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from common.request_log_settings import RequestLog, log_location
from serve.answered import Answered
from serve.metrics import GatewayMetrics
from serve.recent_requests import RecentRequests
from serve.request_files import RequestFiles
from serve.request_table import Protect, Row, protection, rows, table

if TYPE_CHECKING:
    from serve.endpoints import Endpoint, Endpoints

FLUSH_EVERY_S = 5.0
"""What a gateway that is killed may lose of a log."""

PRUNE_EVERY_S = 600.0
MAX_FLUSHED_ROWS = 10_000

MAX_HELD_CHARS = 16_000_000
"""Of an endpoint's texts in memory that are not written yet."""

CHARS_BESIDE_TEXT = 500
"""What a row takes beside its text, for that bound."""

LOOK_EVERY_S = 5.0
CLOSE_TIMEOUT_S = 4.0
"""What a log has to write its last rows when the gateway ends; less than the gateway itself is given."""

BYTES_PER_MB = 1_000_000

logger = logging.getLogger(__name__)

OnEnd = Callable[[str, int], None]
"""Told of texts that were `written` or `dropped`, and how many."""


class EndpointLog:
    """One endpoint's log, with its thread. `put`, `told` and `close` may be called from any other."""

    def __init__(self, endpoint: str, storage: str, settings: RequestLog, on_end: OnEnd) -> None:
        self.kept_as = (storage, settings)
        self.num_dropped = 0
        self._settings = settings
        self._storage = storage
        self._files = RequestFiles(log_location(storage, endpoint))
        self._protect: Protect | None = None
        self._recent = RecentRequests()
        self._on_end = on_end
        self._inbox: queue.SimpleQueue[Answered | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held_chars = 0
        self._pending: defaultdict[str, list[Row]] = defaultdict(list)  # by day
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"request-log-{endpoint}", daemon=True)
        self._thread.start()

    def put(self, seen: Answered) -> None:
        """Has a request logged soon, or dropped. Takes microseconds."""
        size = sum(_num_chars(text) for text in seen.texts)
        with self._lock:
            has_room = self._held_chars + size <= MAX_HELD_CHARS
            self._held_chars += size if has_room else 0
        if has_room:
            self._inbox.put(seen)
        else:
            self._dropped(len(seen.texts))

    def told(self) -> dict[str, Any]:
        """What `GET /<name>/requests` answers."""
        return {"texts": self._settings.texts, "dropped": self.num_dropped, **self._recent.told()}

    def close(self, timeout_s: float = 0.0) -> None:
        """Has what waits written and the thread end, and waits for that for a while."""
        self._inbox.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        flush_at, prune_at, is_open = time.monotonic() + FLUSH_EVERY_S, time.monotonic(), True
        while is_open:
            with suppress(queue.Empty):
                seen = self._inbox.get(timeout=max(0.0, min(flush_at, prune_at) - time.monotonic()))
                is_open = seen is not None
                if seen is not None:
                    self._take(seen)
            full = sum(map(len, self._pending.values())) >= MAX_FLUSHED_ROWS
            if full or not is_open or time.monotonic() >= flush_at:
                self._guarded(self._flush)
                flush_at = time.monotonic() + FLUSH_EVERY_S
            if time.monotonic() >= prune_at:
                self._guarded(self._prune)
                prune_at = time.monotonic() + PRUNE_EVERY_S
        self._drop_pending()  # what could not be written to the last

    def _take(self, seen: Answered) -> None:
        """Makes rows of a request; without the means to hide its texts it is dropped."""
        found: list[Row] = []

        def make() -> None:
            self._protect = self._protect or protection(self._settings.texts, self._storage)
            found.extend(rows(seen, self._settings.texts, self._protect))

        held = sum(_num_chars(text) for text in seen.texts)
        if not self._guarded(make):
            self._let_go(held)
            self._dropped(len(seen.texts))
            return
        self._recent.add(found)
        self._let_go(held - sum(_row_chars(row) for row in found))
        self._pending[f"{seen.at:%Y-%m-%d}"] += found

    def _flush(self) -> None:
        for day in sorted(self._pending):
            found = self._pending[day]
            self._files.write(day, table(found))
            del self._pending[day]
            self._let_go(sum(map(_row_chars, found)))
            self._on_end("written", len(found))

    def _prune(self) -> None:
        days, size = self._settings.retain_days, self._settings.retain_mb * BYTES_PER_MB
        self._files.prune(datetime.now(UTC), retain_days=days, retain_bytes=size)

    def _guarded(self, work: Callable[[], None]) -> bool:
        """Whether `work` was done. A failure is logged once until there is a success; what waits is tried again, until
        it takes half of the room there is."""
        try:
            work()
        except Exception as error:  # whatever a file system or an object store can raise
            if self._trouble is None:
                logger.warning("the request log in %s cannot be kept: %s", self._files.uri, error)
            self._trouble = str(error)
            if self._held_chars > MAX_HELD_CHARS // 2:
                self._drop_pending()
            return False
        self._trouble = None
        return True

    def _drop_pending(self) -> None:
        lost = [row for found in self._pending.values() for row in found]
        self._pending.clear()
        self._let_go(sum(map(_row_chars, lost)))
        if lost:
            self._dropped(len(lost))

    def _let_go(self, num_chars: int) -> None:
        with self._lock:
            self._held_chars -= num_chars

    def _dropped(self, num_texts: int) -> None:
        with self._lock:
            self.num_dropped += num_texts
        self._on_end("dropped", num_texts)


def _num_chars(text: str | tuple[str, str]) -> int:
    return CHARS_BESIDE_TEXT + (len(text) if isinstance(text, str) else sum(map(len, text)))


def _row_chars(row: Row) -> int:
    return CHARS_BESIDE_TEXT + len(row["text"]) + len(row["text_pair"] or "")


class RequestLogs:
    """The logs of all endpoints that keep one; an observer of the gateway."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._logs: dict[str, EndpointLog] = {}

    def answered(self, seen: Answered) -> None:
        """Has a request logged, where its endpoint keeps a log."""
        if seen.spec.request_log is not None:
            self._log(seen.endpoint, seen.spec.storage, seen.spec.request_log).put(seen)

    def told(self, endpoint: "Endpoint") -> dict[str, Any] | None:
        """What `GET /<name>/requests` answers; None where no log is kept."""
        log = self._log_of(endpoint)
        return None if log is None else log.told()

    async def follow(self, endpoints: "Endpoints") -> None:
        """Keeps a log open for each endpoint that has one, also without requests: old rows are deleted all the same."""
        try:
            while True:
                kept = {name for name in endpoints.names() if self._log_of(endpoints[name])}
                for name in self._logs.keys() - kept:
                    self._logs.pop(name).close()
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            open_logs, self._logs = list(self._logs.values()), {}
            await asyncio.gather(*(asyncio.to_thread(log.close, CLOSE_TIMEOUT_S) for log in open_logs))

    def _log_of(self, endpoint: "Endpoint") -> EndpointLog | None:
        spec = endpoint.spec
        if spec.request_log is None:
            return None
        return self._log(endpoint.name, spec.storage, spec.request_log)

    def _log(self, name: str, storage: str, settings: RequestLog) -> EndpointLog:
        log = self._logs.get(name)
        if log is None or log.kept_as != (storage, settings):
            if log is not None:
                log.close()
            log = self._logs[name] = EndpointLog(name, storage, settings, self._on_end(name))
        return log

    def _on_end(self, name: str) -> OnEnd:
        return lambda outcome, num_texts: self._metrics.logged(name, outcome, num_texts)
