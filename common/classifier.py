"""A registered classifier: ONNX Runtime on the CPU for the model, `tokenizers` for the text.

Nothing here imports torch, transformers or MLflow: this is what a replica loads when it wakes, and what the promotion
gate scores, so that the figures on a model card are those of the artefact that serves.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import onnxruntime
import tokenizers

from common.adapter import ADAPTER_FILE, Adapter, Tensors, base_digest
from common.errors import ModelError
from common.model_settings import LABELS_FILE, ModelSettings
from common.shared_parts import SharedParts

MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
FILES = (MODEL_FILE, TOKENIZER_FILE, LABELS_FILE)
"""What a folder must hold for `Classifier.load`."""

MAX_BATCH_SIZE = 8
"""Texts per forward pass: a larger one is no faster on a CPU."""

PASS_TOKENS = 5
"""What a forward pass costs beside its tokens, in tokens: MiniLM-L6 takes 0.4 ms for a pass on a CPU and 0.08 ms for
each token, padding or not."""

MAX_CHARS_PER_TOKEN = 64
"""What a text has beyond so many characters for each token that the model reads is cut off before it is tokenised. No
language comes near; but a tokenizer takes half a second for 100,000 characters, and the batch's other texts wait."""

_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""From a model's input to the attribute of an encoding that fills it."""

Logits = npt.NDArray[np.float32]

Inputs = Mapping[str, npt.NDArray[np.int64]]
"""What a model reads of a batch, by the name of its input, each (B, T)."""

Model = Callable[[Inputs], Logits]
"""A forward pass: from a batch to (B, C) logits. It may be called from several threads."""

_bases = SharedParts[onnxruntime.InferenceSession]()
_tokenizers = SharedParts[tokenizers.Tokenizer]()

Text = str | tuple[str, str]
"""One text, or a pair that the tokenizer joins as its model was made to read pairs."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one text; the scores are probabilities and add up to 1."""

    label: str
    score: float
    scores: dict[str, float]
    logits: tuple[float, ...]
    """What the model gave before the softmax, in the order of `scores`."""
    truncated: bool
    """Whether the text was longer than what the model reads."""


@dataclass(frozen=True)
class Classifier:
    """A loaded model. `load` makes one; it may be used from several threads."""

    labels: tuple[str, ...]
    max_length: int
    precision: str
    _pad_token_id: int
    _tokenizer: tokenizers.Tokenizer
    _input_names: tuple[str, ...]
    _model: Model
    _batch_size: int = MAX_BATCH_SIZE
    _pass_tokens: int = PASS_TOKENS

    @classmethod
    def load(cls, folder: Path, num_threads: int = 1) -> Self:
        """The classifier in `folder` (`model.onnx`, `tokenizer.json`, `labels.json`; an adapter's `adapter.npz`).

        Adapters on one base model share its session with all others in the process, as models of one tokenizer share
        that. `num_threads` is per forward pass. Raises `ModelError` when a file is missing or does not fit the others.
        """
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"{folder} lacks {', '.join(missing)}; promote the model again to export it")
        settings = ModelSettings.parse((folder / LABELS_FILE).read_bytes())
        session, own = _session(folder, num_threads)
        num_outputs = _num_outputs(session, own)
        if num_outputs != len(settings.labels):
            raise ModelError(
                f"{folder}: the model has {num_outputs} outputs and {LABELS_FILE} names {len(settings.labels)} labels; "
                "promote the model again to export it"
            )
        return cls(
            settings.labels,
            settings.max_length,
            settings.precision,
            settings.pad_token_id,
            _tokenizer(folder / TOKENIZER_FILE, settings.max_length),
            tuple(node.name for node in session.get_inputs() if node.name not in own),
            lambda inputs: np.asarray(session.run(["logits"], {**inputs, **own})[0], dtype=np.float32),
        )

    def with_model(self, model: Model, batch_size: int, pass_tokens: int) -> Self:
        """The same texts and labels with another forward pass, which takes `batch_size` texts at a time.

        A pass costs as much as `pass_tokens` tokens, beside those in it.
        """
        return replace(self, _model=model, _batch_size=batch_size, _pass_tokens=pass_tokens)

    def logits(self, texts: Sequence[Text]) -> Logits:
        """(N, C) float32, rows in the order of `texts`, columns in that of `labels`."""
        return self._logits(self._tokenizer.encode_batch_fast([self._beginning(text) for text in texts]))

    def classify(self, texts: Sequence[Text]) -> list[Prediction]:
        """One prediction for each text, in their order."""
        beginnings = [self._beginning(text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(beginnings)
        truncated = [
            beginning != text or bool(encoding.overflowing)
            for text, beginning, encoding in zip(texts, beginnings, encodings, strict=True)
        ]
        logits = self._logits(encodings)
        rows = zip(probabilities(logits), logits.tolist(), truncated, strict=True)
        return [self._prediction(*row) for row in rows]

    def _beginning(self, text: Text) -> Text:
        limit = MAX_CHARS_PER_TOKEN * self.max_length
        return text[:limit] if isinstance(text, str) else (text[0][:limit], text[1][:limit])

    def _logits(self, encodings: Sequence[tokenizers.Encoding]) -> Logits:
        logits = np.empty((len(encodings), len(self.labels)), dtype=np.float32)
        lengths = [len(encoding) for encoding in encodings]
        for rows in passes(lengths, self._batch_size, self._pass_tokens):
            logits[rows] = self._forward([encodings[row] for row in rows])
        return logits

    def _forward(self, batch: Sequence[tokenizers.Encoding]) -> Logits:
        # At least 1: some tokenizers give no token at all for an empty text.
        length = max(1, *(len(encoding) for encoding in batch))
        for encoding in batch:
            encoding.pad(length, pad_id=self._pad_token_id)
        return self._model(
            {
                name: np.array([getattr(encoding, _FIELDS[name]) for encoding in batch], dtype=np.int64)
                for name in self._input_names
            }
        )

    def _prediction(self, row: npt.NDArray[np.float64], logits: list[float], truncated: bool) -> Prediction:
        best = int(row.argmax())
        scores = dict(zip(self.labels, row.tolist(), strict=True))
        return Prediction(self.labels[best], float(row[best]), scores, tuple(logits), truncated)


def passes(lengths: Sequence[int], batch_size: int, pass_tokens: int) -> list[list[int]]:
    """Which texts of so many tokens to read together: rows of `lengths` for each forward pass, `batch_size` at most.

    A pass costs `pass_tokens` tokens, and as many for each of its texts as its longest has. The passes are those that
    cost least in sum: neighbours by length, cut where a pass more costs less than the padding that it saves.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    least = [0] * (len(order) + 1)  # what the first texts cost, by their number, ...
    begins = [0] * (len(order) + 1)  # ... and where the last of their passes begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        starts = range(max(0, end - batch_size), end)
        least[end], begins[end] = min((least[start] + pass_tokens + (end - start) * longest, start) for start in starts)
    found = []
    end = len(order)
    while end:
        found.append(order[begins[end] : end])
        end = begins[end]
    return found


def probabilities(logits: Logits) -> npt.NDArray[np.float64]:
    """(N, C) softmax over the labels, in float64 so that each row adds up to 1."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _tokenizer(path: Path, max_length: int) -> tokenizers.Tokenizer:
    content = path.read_bytes()

    def make() -> tokenizers.Tokenizer:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
        tokenizer.enable_truncation(max_length)
        tokenizer.no_padding()  # batches are padded here, to their own longest text
        return tokenizer

    return _tokenizers.get((hashlib.sha256(content).digest(), max_length), make)


def _session(folder: Path, num_threads: int) -> tuple[onnxruntime.InferenceSession, Tensors]:
    """The session that runs the model in `folder`, and what it takes beside the tokens: an adapter's tensors."""
    path = folder / MODEL_FILE
    adapter = Adapter.read(folder)
    if adapter is None:
        return _open_session(path, num_threads), {}

    def open_base() -> onnxruntime.InferenceSession:
        if base_digest(path) != adapter.base:
            raise ModelError(
                f"{folder}: {ADAPTER_FILE} belongs to another base model than the {MODEL_FILE} beside it; promote "
                "the model again to export both"
            )
        return _open_session(path, num_threads)

    session = _bases.get((adapter.base, num_threads), open_base)
    shapes = {node.name: node.shape for node in session.get_inputs() if node.name not in _FIELDS}
    adapter.check_inputs(shapes, folder)
    return session, adapter.tensors


def _num_outputs(session: onnxruntime.InferenceSession, own: Tensors) -> int | str:
    """How many labels the model knows, where its head is an input as many as that has; else a dimension's name."""
    last: int | str = session.get_outputs()[0].shape[-1]
    sizes: dict[int | str, int] = {
        name: size
        for node in session.get_inputs()
        if node.name in own
        for name, size in zip(node.shape, own[node.name].shape, strict=True)
    }
    return sizes.get(last, last)


def _open_session(path: Path, num_threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # A spinning worker thread would take the core that the next replica needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise ModelError(f"{path} is not a model that ONNX Runtime can open: {error}") from error
