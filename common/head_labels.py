"""Which outputs of a base model's own classification head are the data's labels: told by name, never by position."""

import re
from collections.abc import Sequence
from typing import Any

from common.base_model import load_config
from common.errors import ModelError
from common.recipe import BUILTIN, Model

HEAD = "ForSequenceClassification"
"""How architectures end that have a classification head."""

_UNNAMED = re.compile(r"LABEL_\d+")
"""What transformers calls the outputs of a head that nobody has named."""


def head_outputs(config: Any, labels: Sequence[str], base: str) -> tuple[int, ...] | None:
    """For each label, which output of the base model's own head it is; None when there is no head to take over.

    A head without names for its outputs is none: nobody can tell what they mean. Upper and lower case are the same,
    unless that would make two labels one.

    Args:
        config: The base model's `transformers.PreTrainedConfig`.
        labels: The data's.
        base: What errors call the model.

    Raises:
        ModelError: The head has names, and some of the labels are not among them.
    """
    names = [str(config.id2label[index]) for index in sorted(config.id2label or {})]
    has_head = any(name.endswith(HEAD) for name in config.architectures or ())
    if not has_head or (all(_UNNAMED.fullmatch(name) for name in names) and set(names) != set(labels)):
        return None
    known, wanted = _alike(names), _alike(labels)
    if known is None or wanted is None:
        known, wanted = names, list(labels)
    missing = [label for label, name in zip(labels, wanted, strict=True) if name not in known]
    if missing:
        raise ModelError(
            f"model.base {base} is a classifier of {', '.join(names)}; of the data's labels it does not know "
            f"{', '.join(missing)}. Give the labels its names with data.label_names, or start from a head of your own "
            "with model.head=new"
        )
    return tuple(known.index(name) for name in wanted)


def keeps_head(model: Model, labels: Sequence[str]) -> bool:
    """Whether training starts from the base model's own head; looks at its configuration alone.

    Raises:
        ModelError: There is no such model, or its head has names for other labels.
    """
    if model.head == "new" or model.base.startswith(BUILTIN):
        return False
    return head_outputs(load_config(model.base, model.revision), labels, model.base) is not None


def _alike(names: Sequence[str]) -> list[str] | None:
    """The names in one case; None when two of them become one."""
    folded = [name.strip().casefold() for name in names]
    return folded if len(set(folded)) == len(folded) else None
