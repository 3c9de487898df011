"""Tokenised texts as memory-mapped Arrow, and how an epoch's global batches are formed from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

MAX_WINDOW_BATCHES = 50
"""Texts are sorted by length within a random window of this many batches, as transformers' `LengthGroupedSampler` does,
or of half the epoch, where that takes a fourth: of 1,500 short messages 13 % are then padding and not 23 %."""

Rows = npt.NDArray[np.int64]
"""Row numbers, shape (R,)."""


@dataclass(frozen=True)
class Batch:
    """Texts padded to the longest of them."""

    input_ids: torch.Tensor
    """(R, L) int64."""
    attention_mask: torch.Tensor | None
    """(R, L) int64, 1 for tokens and 0 for padding; None when nothing is padded, which attention does faster."""
    labels: torch.Tensor
    """(R,) int64."""

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        mask = self.attention_mask
        return Batch(
            self.input_ids.to(device, non_blocking=True),
            None if mask is None else mask.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class TokenisedTexts:
    """One split's token ids and labels, without padding."""

    token_ids: tuple[npt.NDArray[np.int32], ...]
    """The tokens of each record batch, text after text, where the file is mapped into memory."""
    record_batches: npt.NDArray[np.int64]
    """(N,) the record batch that holds each text."""
    starts: npt.NDArray[np.int64]
    """(N,) where in it the text begins."""
    lengths: npt.NDArray[np.int64]
    """(N,) tokens of each text."""
    labels: npt.NDArray[np.int64]
    """(N,) indices of labels."""

    @classmethod
    def open(cls, file: Path) -> Self:
        """Memory-maps an Arrow file with the columns `input_ids` (list<int32>) and `label` (int32)."""
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_file(source).read_all()
        texts = table.column("input_ids").chunks
        offsets = [chunk.offsets.to_numpy().astype(np.int64) for chunk in texts]
        return cls(
            token_ids=tuple(chunk.values.to_numpy() for chunk in texts),
            record_batches=np.repeat(np.arange(len(texts)), [len(chunk) for chunk in texts]),
            starts=np.concatenate([ends[:-1] for ends in offsets]),
            lengths=np.concatenate([np.diff(ends) for ends in offsets]),
            labels=table.column("label").to_numpy().astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def uses(self, vocabulary_size: int) -> npt.NDArray[np.bool_]:
        """(vocabulary_size,) whether each token occurs in a text."""
        is_used = np.zeros(vocabulary_size, dtype=bool)
        for token_ids in self.token_ids:
            is_used[token_ids] = True
        return is_used

    def batch(self, rows: Rows, pad_token_id: int) -> Batch:
        """The given rows, padded to the longest of them."""
        lengths = self.lengths[rows]
        input_ids = np.full((len(rows), lengths.max()), pad_token_id, dtype=np.int64)
        places = zip(self.record_batches[rows], self.starts[rows], lengths, strict=True)
        for row, (record_batch, start, length) in enumerate(places):
            input_ids[row, :length] = self.token_ids[record_batch][start : start + length]
        is_token = np.arange(lengths.max()) < lengths[:, None]
        return Batch(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=None if is_token.all() else torch.from_numpy(is_token.astype(np.int64)),
            labels=torch.from_numpy(self.labels[rows]),
        )


def epoch_batches(lengths: npt.NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """The global batches of one epoch, in order, a function of nothing but the arguments.

    Every row is in exactly one batch. Batches hold texts of like length, so that little is padded, and come in random
    order; what does not fill a batch comes last. Each worker takes its share of each batch (`share`), so the optimiser
    sees the same batches whatever the number of workers.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    num_filled = len(order) - len(order) % batch_size
    window_size = min(MAX_WINDOW_BATCHES, max(num_filled // batch_size // 2, 1)) * batch_size
    batches: list[Rows] = []
    for start in range(0, num_filled, window_size):
        window = order[start : min(start + window_size, num_filled)]
        batches.extend(window[np.argsort(lengths[window], kind="stable")].reshape(-1, batch_size))
    batches = [batches[index] for index in random.permutation(len(batches))]
    return [*batches, order[num_filled:]] if num_filled < len(order) else batches


def share(batch: Rows, rank: int, world_size: int) -> Rows:
    """A worker's rows of a global batch, possibly none; every `world_size`-th, so that lengths are even."""
    return batch[rank::world_size]


def sorted_batches(lengths: npt.NDArray[np.int64], batch_size: int) -> list[Rows]:
    """All rows in batches of like length, longest first, for prediction."""
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
