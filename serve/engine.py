"""The replica: loads the versions of a model that it is asked for, and classifies batches.

This module starts with every wake, so it imports only what a forward pass needs: no torch, transformers or MLflow. A
replica with a GPU takes `serve.gpu` for that, and with it torch, when it loads its first model.
"""

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from common.adapter import base_of
from common.classifier import MODEL_FILE, Classifier, Prediction, Text
from common.errors import InputError, ModelError, ServingError
from common.location import cached_copy, local_path
from common.model_settings import weights_beside
from serve.autoscaling import IDLE_METRIC
from serve.engines import Engines
from serve.turns import Turns

NUM_KEPT = 2
"""Versions held in memory: the present one and the one before it, which a rollback or a late batch asks for."""

_IMPORTED_AT = time.time()
logger = logging.getLogger(__name__)


def fetch(uri: str) -> Path:
    """The folder at `uri` on this node: itself when it is local, else a copy that is made once.

    Raises `ModelError` when it is not there or cannot be read.
    """
    folder = local_path(uri)
    if folder is None:
        try:
            return cached_copy(uri, "engines", hashlib.sha256(uri.encode()).hexdigest()[:16])
        except (OSError, InputError) as error:
            raise ModelError(f"{uri} cannot be fetched ({error}); check that this node may read the storage") from error
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is not on this node; a cluster of several machines needs a storage that all of them can read"
        )
    return folder


def load(uri: str) -> Classifier:
    """The classifier at `uri` on the CPU. Raises `ModelError`."""
    return Classifier.load(fetch(uri))


def load_on_gpu(uri: str) -> Classifier:
    """The classifier at `uri` on this process's GPU, by the weights beside it. Raises `ModelError`, `ServingError`."""
    try:
        import serve.gpu as gpu
    except ImportError as error:
        raise ServingError(
            f"a replica with a GPU needs torch and transformers ({error}): install tuneserve[serve-gpu] on the nodes "
            "that have GPUs, or set serve.num_gpus=0"
        ) from error
    return gpu.load(fetch(uri), fetch(weights_beside(uri)))


def _classify(engine: Classifier, texts: Sequence[Text]) -> list[Prediction]:
    """A prediction for each text, by halves when the whole fails: who sent a text that the model fails on fails alone.

    The scores of that text are no numbers, for which its request is refused.
    """
    try:
        return engine.classify(texts)
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        if len(texts) == 1:
            # Of the error its kind alone: its words may quote the text.
            logger.error("the model fails on a text: %s", type(error).__name__)
            scores = dict.fromkeys(engine.labels, math.nan)
            return [Prediction(engine.labels[0], math.nan, scores, tuple(scores.values()), truncated=False)]
        middle = len(texts) // 2
        return _classify(engine, texts[:middle]) + _classify(engine, texts[middle:])


class Model:
    """The Serve deployment behind an endpoint. The gateway says with each batch which version classifies it."""

    def __init__(self, num_kept: int = NUM_KEPT, *, on_gpu: bool = False) -> None:
        self._load_model = load_on_gpu if on_gpu else load
        self._engines = Engines(self._load, num_kept)
        # One forward pass at a time: it takes one core, and two would only delay each other.
        self._core = Turns()
        self._num_calls = 0
        self._worked_at = time.monotonic()
        self._times = {"init": time.time()}

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Nothing to do: Serve keeps the endpoint's specification as the deployment's `user_config`."""

    async def prepare(self, uri: str, version: int) -> None:
        """Loads the model in the folder `uri`, so that the first batch need not. Raises `ModelError`."""
        with self._at_work():
            await self._engine(uri, version)

    async def release(self, uri: str, version: int) -> None:
        """Gives the model's memory back, when another replica answers from now on."""
        self._engines.drop(uri, version)

    async def times(self) -> dict[str, float]:
        """When this replica's process began, had imported this, was made and had loaded its newest model; its pid."""
        process = psutil.Process()
        return {"pid": process.pid, "process": process.create_time(), "imports": _IMPORTED_AT, **self._times}

    async def classify(self, uri: str, version: int, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """What `serve.batching.Answer` names for each text, in their order, by the model in the folder `uri`.

        Raises `ModelError` when that version cannot be fetched or loaded.
        """
        with self._at_work():
            engine = await self._engine(uri, version)
            async with self._core.take(uri):
                predictions = await asyncio.to_thread(_classify, engine, texts)
        return [vars(found) for found in predictions]

    async def _engine(self, uri: str, version: int) -> Classifier:
        try:
            return await self._engines.get(uri, version)
        except ModelError as error:
            raise ModelError(f"version {version} cannot be loaded: {error}") from error

    def _load(self, uri: str) -> Classifier:
        classifier = self._load_model(uri)
        self._times["load"] = time.time()
        return classifier

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._num_calls += 1
        try:
            yield
        finally:
            self._num_calls -= 1
            self._worked_at = time.monotonic()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `serve.autoscaling.IdlePolicy` decides by; Serve calls this several times a minute."""
        return {IDLE_METRIC: 0.0 if self._num_calls else time.monotonic() - self._worked_at}


class PooledModel(Model):
    """The Serve deployment of the shared pool: the models of many endpoints, as many as fit into its memory."""

    def __init__(self) -> None:
        super().__init__()
        self._engines = Engines(self._load, num_kept=None, parts_of=_parts)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Takes over how much the loaded models may hold: `user_config` is a `serve.pool.PoolSpec`."""
        self._engines.bound(int(user_config["memory_gb"] * 1e9))


def _parts(uri: str) -> dict[str, int]:
    """What the model in the folder `uri` is expected to take: the sizes of its files, those of a base model by its own
    name, since adapters share it. Raises `ModelError`.
    """
    folder = fetch(uri)
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    base = base_of(folder)
    shared = {} if base is None else {base: sizes.pop(MODEL_FILE, 0)}
    return {uri: sum(sizes.values()), **shared}
