"""The examination of a data set: what in it will cost accuracy, or make a measured one untrue."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from common.dataset import SPLITS, Splits
from common.text_encoding import repaired

Severity = Literal["error", "warning", "info"]

MAX_EXAMPLES = 3
SERIOUS_LEAK = 0.01
"""Share of a split's rows that may also stand in another split before its score stops meaning much."""
SERIOUS_CUT = 0.01
"""Share of the texts that `max_length` may cut unremarked."""
IMBALANCE = 3.0
SERIOUS_IMBALANCE = 10.0
"""Rows of the largest class for each row of the smallest."""
FEW_ROWS = 10
"""Below this many rows of a class, a score on it moves by 10 points or more with each row."""


@dataclass(frozen=True)
class Finding:
    """One thing that the examination found."""

    check: str
    """Which check: duplicates, conflicting_labels, leakage, class_imbalance, small_class, truncation, ..."""
    severity: Severity
    """`error`: scores will mislead; `warning`: look at it; `info`: good to know."""
    count: int
    """How many rows or texts it concerns."""
    message: str
    """What was found, in a sentence."""
    examples: tuple[str, ...]
    """A few of them."""
    advice: str
    """What to do about it."""


def examine(splits: Splits, lengths: Mapping[str, Sequence[int]] | None, max_length: int) -> list[Finding]:
    """All findings, the gravest first.

    `lengths` holds each split's token counts before cutting (`common.tokenised.token_lengths`); without it the checks
    that need a tokenizer are left out.
    """
    texts = {split: splits[split].column("text").to_pylist() for split in SPLITS}
    labels = {split: splits[split].column("label").to_pylist() for split in SPLITS}
    findings = [
        *_leakage(texts),
        *_conflicting_labels(texts, labels),
        *_small_classes(splits.labels, labels),
        *_imbalance(labels["train"]),
        *_encoding(texts),
        *_empty(splits.num_empty),
        *_duplicates(texts),
        *(_truncation(texts, lengths, max_length) if lengths is not None else ()),
    ]
    gravest_first = ("error", "warning", "info")
    return sorted(findings, key=lambda finding: gravest_first.index(finding.severity))


def _leakage(texts: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Texts on two sides. Only ready-made files can have them: a division by text hash never parts equal texts."""
    for learnt, scored in (("train", "test"), ("train", "validation"), ("validation", "test")):
        known = set(texts[learnt])
        leaked = [text for text in texts[scored] if text in known]
        if leaked:
            share = len(leaked) / len(texts[scored])
            yield Finding(
                check="leakage",
                severity="error" if share > SERIOUS_LEAK else "warning",
                count=len(leaked),
                message=f"{_of(len(leaked), len(texts[scored]))} {scored} rows have a text that is also in {learnt}",
                examples=_shown(leaked),
                advice=f"remove them from the {learnt} rows; until then the {scored} score is too high",
            )


def _conflicting_labels(texts: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    labels_of: defaultdict[str, set[str]] = defaultdict(set)
    for split in SPLITS:
        for text, label in zip(texts[split], labels[split], strict=True):
            labels_of[text].add(label)
    conflicts = {text: sorted(found) for text, found in labels_of.items() if len(found) > 1}
    if conflicts:
        yield Finding(
            check="conflicting_labels",
            severity="warning",
            count=len(conflicts),
            message=f"{_count(len(conflicts), 'text has', 'texts have')} two or more different labels",
            examples=tuple(
                f"{_short(text)}: {', '.join(found)}" for text, found in list(conflicts.items())[:MAX_EXAMPLES]
            ),
            advice="decide on one label for each; no model can get both right",
        )


def _small_classes(names: Sequence[str], labels: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    counts = {split: Counter(labels[split]) for split in SPLITS}
    small = {name: {split: counts[split][name] for split in SPLITS if counts[split][name] < FEW_ROWS} for name in names}
    small = {name: few for name, few in small.items() if few}
    if small:
        unseen = any(rows == 0 for few in small.values() for rows in few.values())
        yield Finding(
            check="small_class",
            severity="warning" if unseen else "info",
            count=len(small),
            message=f"{_count(len(small), 'class has', 'classes have')} fewer than {FEW_ROWS} rows in a split"
            + (", some of them none" if unseen else ""),
            examples=tuple(
                f"{_short(name)}: {', '.join(f'{rows} in {split}' for split, rows in few.items())}"
                for name, few in list(small.items())[:MAX_EXAMPLES]
            ),
            advice="collect more rows of it, or give validation and test a larger share in data.split",
        )


def _imbalance(labels: Sequence[str]) -> Iterator[Finding]:
    ordered = Counter(labels).most_common()
    (largest, most), (smallest, least) = ordered[0], ordered[-1]
    if most >= IMBALANCE * least:
        yield Finding(
            check="class_imbalance",
            severity="warning" if most >= SERIOUS_IMBALANCE * least else "info",
            count=least,
            message=f"the largest class has {most / least:.1f} times the training rows of the smallest; "
            f"always answering {largest!r} would be {most / len(labels):.1%} accurate on them",
            examples=(f"{_short(largest)}: {most:,} rows", f"{_short(smallest)}: {least:,} rows"),
            advice="select with search.metric=macro_f1, which counts every class alike",
        )


def _encoding(texts: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Traces of a wrong decoding that happened before the data came here, in some texts and not in others."""
    damaged = []
    for text in (text for split in SPLITS for text in texts[split]):
        repair = repaired(text)
        if repair is not None:
            damaged.append(f"{_short(text)} was {_short(repair)}")
        elif any(character == "\ufffd" or "\x80" <= character <= "\x9f" for character in text):
            damaged.append(_short(text))
    if damaged:
        yield Finding(
            check="mixed_encodings",
            severity="warning",
            count=len(damaged),
            message=f"{_count(len(damaged), 'text was', 'texts were')} read with a wrong encoding somewhere: UTF-8 as "
            "Windows-1252, replacement characters, or control characters where punctuation was",
            examples=tuple(damaged[:MAX_EXAMPLES]),
            advice="check data.encoding; if the file itself holds them, repair the texts where they come from",
        )


def _empty(num_empty: int) -> Iterator[Finding]:
    if num_empty:
        yield Finding(
            check="empty_texts",
            severity="warning",
            count=num_empty,
            message=f"{_count(num_empty, 'row', 'rows')} with an empty text left out",
            examples=(),
            advice="check data.text_column and the file if these should have had a text",
        )


def _duplicates(texts: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Repeats within a split: rows less distinct texts. Repeats across splits are leakage."""
    repeats = {split: len(texts[split]) - len(set(texts[split])) for split in SPLITS}
    total = sum(repeats.values())
    if total:
        counts = Counter((split, text) for split in SPLITS for text in texts[split])
        yield Finding(
            check="duplicates",
            severity="info",
            count=total,
            message=f"{_count(total, 'row repeats', 'rows repeat')} the text of another row of its split "
            f"({', '.join(f'{number} in {split}' for split, number in repeats.items())})",
            examples=tuple(
                f"{count} times {_short(text)}" for (_, text), count in counts.most_common(MAX_EXAMPLES) if count > 1
            ),
            advice="equal texts always share a side, so nothing leaks; remove repeats if they weigh too much",
        )


def _truncation(
    texts: Mapping[str, Sequence[str]], lengths: Mapping[str, Sequence[int]], max_length: int
) -> Iterator[Finding]:
    pairs = [(length, text) for split in SPLITS for length, text in zip(lengths[split], texts[split], strict=True)]
    cut = [text for length, text in pairs if length > max_length]
    enough = shortest_max_length([length for length, _ in pairs])
    serious = len(cut) >= SERIOUS_CUT * len(pairs)
    yield Finding(
        check="truncation",
        severity="warning" if serious else "info",
        count=len(cut),
        message=f"texts cut at model.max_length {max_length} tokens: {_of(len(cut), len(pairs))}; "
        f"{enough} is the shortest that cuts fewer than {SERIOUS_CUT:.0%}",
        examples=_shown(cut),
        advice=f"set model.max_length={enough}"
        if serious
        else "nothing to do: batches are padded to their own longest",
    )


def shortest_max_length(lengths: Sequence[int]) -> int:
    """The smallest token count that fewer than 1 % of `lengths` exceed."""
    may_exceed = math.ceil(SERIOUS_CUT * len(lengths)) - 1
    return sorted(lengths, reverse=True)[may_exceed]


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / whole:.1%})"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _shown(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(_short(text) for text in texts[:MAX_EXAMPLES])


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
