"""Training only those rows of a model's token embeddings that the data uses.

The table of tokens is half of a small encoder (30,522 rows in MiniLM-L6), and a data set uses a few thousand of them.
The others never get a gradient, yet AdamW passes over their weights, gradients and moments at every step. Here they are
set aside until the model is saved. All else trains as it would; they keep their pretrained vectors, where weight decay
would have shrunk them by the sum of learning rate times weight decay.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel


class UsedRows(nn.Module):
    """In the place of an `nn.Embedding`: the same vectors for the tokens that are used, and none for others."""

    places: torch.Tensor
    """(V,) int64: the row of each token, -1 for those without one, which the look-up refuses."""

    def __init__(self, whole: nn.Embedding, is_used: torch.Tensor) -> None:
        super().__init__()
        self.tokens = torch.nonzero(is_used).flatten()  # (U,)
        places = torch.full((whole.num_embeddings,), -1)
        places[self.tokens] = torch.arange(len(self.tokens))
        self.register_buffer("places", places, persistent=False)
        self.weight = nn.Parameter(whole.weight.detach()[self.tokens].clone())  # (U, D)
        self._whole = [whole]  # in a list: its weights are no parameters of the model, and stay off the GPU
        self._padding_place = None if whole.padding_idx is None else int(places[whole.padding_idx])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, T) tokens to (B, T, D) vectors."""
        return embedding(self.places[input_ids], self.weight, self._padding_place)

    def whole(self) -> nn.Embedding:
        """The embedding with all its rows."""
        whole = self._whole[0]
        with torch.no_grad():
            whole.weight[self.tokens] = self.weight.to(whole.weight.device)
        return whole


def keep_used_rows(model: PreTrainedModel, is_used: torch.Tensor) -> None:
    """Leaves only those rows of the model's token embeddings that are used.

    A model whose table is of another kind, does not learn, or has a second use is left as it is.

    Args:
        model: On the CPU.
        is_used: (V,) bool, for each token.
    """
    whole = model.get_input_embeddings()
    if type(whole) is not nn.Embedding or not whole.weight.requires_grad or _num_users(model, whole.weight) > 1:
        return
    if whole.padding_idx is not None:  # the look-up must know it, whether a text is padded or not
        is_used = is_used | (torch.arange(len(is_used)) == whole.padding_idx)
    model.set_input_embeddings(UsedRows(whole, is_used))


@contextmanager
def all_rows(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model has all rows of its token embeddings again, for saving."""
    used = model.get_input_embeddings()
    if not isinstance(used, UsedRows):
        yield
        return
    model.set_input_embeddings(used.whole())
    try:
        yield
    finally:
        model.set_input_embeddings(used)


def _num_users(model: nn.Module, weight: torch.Tensor) -> int:
    return sum(own is weight for module in model.modules() for own in module.parameters(recurse=False))
