"""Whether a candidate replaces the champion: both on the same test rows, the difference with its uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.metrics import score
from common.recipe import Gate

NUM_RESAMPLES = 10_000
_SEED = 22
_MAX_CELLS = 4_000_000  # numbers in memory at once, per array

Indices = npt.NDArray[np.int64]
"""Label indices, shape (N,)."""


@dataclass(frozen=True)
class Rivalry:
    """The champion's side of a comparison: its answers on rows that it was not trained on."""

    version: int
    predicted: Indices
    rows: npt.NDArray[np.bool_]
    """Of all test rows, which are compared, shape (N,); `predicted` holds one answer for each of them."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says and why; scores are on `rows` rows of the test split."""

    passed: bool
    metric: str
    candidate: float
    champion: float | None
    difference: float | None
    interval: tuple[float, float] | None
    confidence: float
    rows: int
    excluded_rows: int
    test_split_uses: int
    reason: str


def judge(
    gate: Gate,
    predicted: Indices,
    actual: Indices,
    num_labels: int,
    *,
    rivalry: Rivalry | None,
    quick_check_failures: Sequence[str] = (),
    test_split_uses: int = 0,
) -> Verdict:
    """Holds a candidate's answers on the test rows against the champion's and against the recipe's gate.

    `test_split_uses` counts how often this split has judged a candidate before.
    """
    rows = np.ones(len(actual), dtype=bool) if rivalry is None else rivalry.rows
    candidate = score(gate.metric, predicted[rows], actual[rows], num_labels)
    champion, interval = None, None
    if rivalry is not None and rows.any():
        champion = score(gate.metric, rivalry.predicted, actual[rows], num_labels)
        interval = paired_bootstrap(
            gate.metric, predicted[rows], rivalry.predicted, actual[rows], num_labels, gate.confidence
        )
    comparison = _in_words(gate, candidate, champion, interval, int(rows.sum()), rivalry)
    failures = [*_failures(gate, candidate, rivalry, interval), *quick_check_failures]
    return Verdict(
        passed=not failures,
        metric=gate.metric,
        candidate=candidate,
        champion=champion,
        difference=None if champion is None else candidate - champion,
        interval=interval,
        confidence=gate.confidence,
        rows=int(rows.sum()),
        excluded_rows=int(len(rows) - rows.sum()),
        test_split_uses=test_split_uses,
        reason="; ".join([comparison, *failures]),
    )


def paired_bootstrap(
    metric: str, candidate: Indices, champion: Indices, actual: Indices, num_labels: int, confidence: float
) -> tuple[float, float]:
    """Percentile interval of (candidate - champion) over 10,000 resamples of the rows, with a fixed seed.

    Both are scored on the same resampled rows (Koehn 2004, "Statistical significance tests for machine translation
    evaluation"; Efron & Tibshirani 1993, ch. 13). Rows that agree in label and both answers are exchangeable, so
    drawing how often each such kind occurs is the same as drawing rows, and costs no more for a large split.
    """
    kinds, counts = np.unique(np.stack([actual, candidate, champion]), axis=1, return_counts=True)  # (3, K), (K,)
    ours, theirs = (_kind_counts(metric, kinds[0], answers, num_labels) for answers in kinds[1:])
    generator = np.random.default_rng(_SEED)
    chunk = max(1, _MAX_CELLS // max(len(counts), num_labels))
    differences = []
    for start in range(0, NUM_RESAMPLES, chunk):
        size = min(chunk, NUM_RESAMPLES - start)
        draws = generator.multinomial(len(actual), counts / len(actual), size=size).astype(np.float64)  # (S, K)
        differences.append(_scores(draws, ours) - _scores(draws, theirs))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(differences), [tail, 1 - tail])
    return float(low), float(high)


def _kind_counts(
    metric: str, actual: Indices, predicted: Indices, num_labels: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """For each kind of row what it adds to the numerators and denominators of the metric's terms, each (K, terms).

    Accuracy is one term, right answers over rows. Macro-F1 has one for each label: twice the right answers over the
    times it is right plus the times it is answered.
    """
    right = (actual == predicted).astype(np.float64)[:, None]
    if metric == "accuracy":
        return right, np.ones_like(right)
    is_actual, is_predicted = (np.eye(num_labels)[labels] for labels in (actual, predicted))
    return 2 * right * is_actual, is_actual + is_predicted


def _scores(
    draws: npt.NDArray[np.float64], terms: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """(S,) the mean over the terms that occur in each resample, as `common.metrics.macro_f1_of` has it."""
    numerators, denominators = draws @ terms[0], draws @ terms[1]
    values = numerators / np.maximum(denominators, 1)
    return np.asarray(values.sum(axis=1) / (denominators > 0).sum(axis=1))


def _failures(gate: Gate, candidate: float, rivalry: Rivalry | None, interval: tuple[float, float] | None) -> list[str]:
    failures = []
    if candidate < gate.minimum:
        failures.append(f"{gate.metric} {candidate:.4f} is below the gate's minimum {gate.minimum:g}")
    if rivalry is not None and interval is None:
        failures.append(
            "every test row was in the champion's training data, so the two cannot be compared; give data.test_source "
            "rows that neither was trained on"
        )
    if interval is not None and interval[0] <= gate.min_improvement:
        failures.append(f"the interval does not lie above {gate.min_improvement:+g}")
    return failures


def _in_words(
    gate: Gate,
    candidate: float,
    champion: float | None,
    interval: tuple[float, float] | None,
    rows: int,
    rivalry: Rivalry | None,
) -> str:
    ours = f"{gate.metric} {candidate:.4f} on {rows} test rows"
    if rivalry is None:
        return f"{ours}; there is no champion to compare with"
    if champion is None or interval is None:
        return f"{ours}; the champion is version {rivalry.version}"
    return (
        f"{ours} against {champion:.4f} of version {rivalry.version}: {candidate - champion:+.4f}, "
        f"{gate.confidence:.0%} interval [{interval[0]:+.4f}, {interval[1]:+.4f}]"
    )
