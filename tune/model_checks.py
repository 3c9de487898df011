"""What of a recipe only the base model's architecture can refuse; looked at before anything starts."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from common.builtin import tiny_bert
from common.recipe import BUILTIN, Recipe
from tune.adapters import blank_model, target_modules


def refuse_unknown_modules(recipe: Recipe, texts: Sequence[str], num_labels: int) -> None:
    """Raises `ModelError` when `lora.target_modules` names what the base model lacks; looks at no weights."""
    named = [lora.target_modules for lora in recipe.loras if lora.target_modules is not None]
    if not named:
        return
    with ExitStack() as stack:
        base = recipe.model.base
        if base.startswith(BUILTIN):
            base = stack.enter_context(TemporaryDirectory(prefix="tuneserve-"))
            tiny_bert(texts, Path(base))
        model = blank_model(base, num_labels, recipe.model.revision)
        for names in named:
            target_modules(model, names)
