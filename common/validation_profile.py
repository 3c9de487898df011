"""What a registered model answered on its validation split: what live traffic is held against.

Kept beside the model as `validation_profile.json`. Versions that were registered without one have no drift figures.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from common.location import filesystem, join

PROFILE_FILE = "validation_profile.json"

NUM_BINS = 10
"""Bins of the scores, each with as many validation rows: most scores of a good model are close to 1, where bins of
equal width would see nothing."""


@dataclass(frozen=True)
class ValidationProfile:
    """Counts over the validation rows, each by the label that the model gave it."""

    label_counts: dict[str, int]
    """For every label of the model, also those that it gave to none."""
    score_edges: tuple[float, ...]
    """Ascending bounds between the bins of the label's score; a score on a bound belongs above it."""
    score_counts: tuple[int, ...]
    """One more than there are bounds."""
    mean_score: float

    @classmethod
    def of(cls, labels: Sequence[str], probabilities: npt.NDArray[np.float64]) -> Self:
        """The profile of (N, C) probabilities, columns in the order of `labels`; N is at least 1."""
        best = probabilities.argmax(axis=1)
        scores = probabilities.max(axis=1)
        edges = np.unique(np.quantile(scores, np.arange(1, NUM_BINS) / NUM_BINS))
        counts = np.bincount(np.searchsorted(edges, scores, side="right"), minlength=len(edges) + 1)
        given = Counter(best.tolist())
        return cls(
            label_counts={label: given[index] for index, label in enumerate(labels)},
            score_edges=tuple(edges.tolist()),
            score_counts=tuple(counts.tolist()),
            mean_score=float(scores.mean()),
        )

    @property
    def num_rows(self) -> int:
        """Validation rows that were counted."""
        return sum(self.score_counts)

    def dump(self) -> str:
        """What `parse` reads."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def parse(cls, content: str | bytes) -> Self:
        """The profile in a `validation_profile.json`. Raises `ValueError` when it is none."""
        try:
            found = json.loads(content)
            edges, counts = tuple(found["score_edges"]), tuple(found["score_counts"])
            return cls(dict(found["label_counts"]), edges, counts, float(found["mean_score"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a {PROFILE_FILE}: {error!r}") from error

    @classmethod
    def read(cls, uri: str) -> Self | None:
        """The profile of the model in the folder `uri`; None where it has none. Raises `OSError` and `ValueError`."""
        files, path = filesystem(join(uri, PROFILE_FILE))
        try:
            with files.open_input_stream(path) as stream:
                return cls.parse(stream.read())
        except FileNotFoundError:
            return None
