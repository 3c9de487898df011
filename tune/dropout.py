"""Dropout for CPUs: torch draws each element's Bernoulli variable by itself there, a fifth of a small encoder's step.

Here 16 random bits decide over an element, drawn four elements at a time from torch's generator, so that `manual_seed`
decides as before. A probability is met to within 1/131,072.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "tuneserve_cpu"
"""Name of the attention in Transformers' register of them."""

_LEAST, _VALUES = -(2**15), 2**16
"""Of int16."""


class Dropout(nn.Module):
    """Like `nn.Dropout`, which it replaces."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Any shape, which it keeps."""
        return drop(values, self.p) if self.training and self.p > 0 else values


def use_fast_dropout(model: PreTrainedModel) -> None:
    """Has a model on a CPU use the dropout of this file in its layers, and in its attention where torch's would be."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout and child.p < 1:
                setattr(module, name, Dropout(child.p))
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, _attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)


def drop(values: torch.Tensor, p: float) -> torch.Tensor:
    """Zeroes each element with probability `p`, below 1, and divides the others by `1 - p`; any shape and dtype."""
    bits = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    is_kept = bits.view(torch.int16)[: values.numel()].view(values.shape) >= _LEAST + round(p * _VALUES)
    return values * is_kept.to(values.dtype).mul_(1.0 / (1.0 - p))


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as `sdpa` computes it, (B, H, T, D) each; what has no dropout or is not plain is left to that.

    With dropout torch has no fused kernel on CPUs, and its other one computes in fp32 whatever it is given.
    """
    if dropout == 0.0 or not _is_plain(module, query, key, attention_mask, others):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return (drop(weights, dropout) @ value).transpose(1, 2).contiguous(), None


def _is_plain(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    others: Mapping[str, Any],
) -> bool:
    """Whether every token sees every other one but for the padding, as in an encoder, by the mask alone."""
    is_causal = others.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    is_bool = attention_mask is None or attention_mask.dtype == torch.bool
    return is_bool and not is_causal and others.get("position_bias") is None and key.shape[1] == query.shape[1]
