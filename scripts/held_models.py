"""What models hold in a process that serves them, and what a text costs it: measured in a process of their own.

    python -m scripts.held_models FOLDER ... <TEXTS.json

prints one JSON object. A part of `scripts.bench_adapters`.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from common.classifier import Classifier

MB = 1e6


@dataclass(frozen=True)
class Held:
    """Of models that a process has loaded and asked once."""

    mb: float
    """All of them together, beyond what the process had before, as RSS."""
    load_s: float
    """Seconds to load one, median."""
    text_ms: float
    """Milliseconds of CPU for one text, median."""


def held_by(folders: Sequence[Path], texts: Sequence[str]) -> Held:
    """Measures the models in these folders in a new process, each held for itself."""
    command = [sys.executable, "-m", "scripts.held_models", *map(str, folders)]
    ended = subprocess.run(command, input=json.dumps(list(texts)), stdout=subprocess.PIPE, text=True, check=True)
    return Held(**json.loads(ended.stdout))


def measure(folders: Sequence[Path], texts: Sequence[str]) -> Held:
    """Measures the models in these folders in this process."""
    process = psutil.Process()
    before = process.memory_info().rss
    models: list[Classifier] = []
    load_s: list[float] = []
    for folder in folders:
        started = time.perf_counter()
        models.append(Classifier.load(folder))
        load_s.append(time.perf_counter() - started)
    for model in models:
        model.logits(texts)  # a session takes its working memory with the first texts
    held = process.memory_info().rss - before
    text_s: list[float] = []
    for number, text in enumerate(texts):
        started = time.process_time()
        models[number % len(models)].logits([text])
        text_s.append(time.process_time() - started)
    return Held(held / MB, statistics.median(load_s), 1e3 * statistics.median(text_s))


if __name__ == "__main__":
    found = measure([Path(folder) for folder in sys.argv[1:]], json.load(sys.stdin))
    sys.stdout.write(json.dumps(asdict(found)))
