"""The faster dropout drops as often, scales as exactly and follows the seed as torch's; attention stays attention."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from tests.training_data import LABELS, write_base_model
from tune.dropout import ATTENTION, Dropout, drop, use_fast_dropout

NEGLIGIBLE = 1e-9
"""A dropout that takes the way of dropout and drops nothing."""


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elements_are_dropped_as_often_as_asked_and_the_others_scaled(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.ones(401, 499, dtype=dtype, requires_grad=True)
    dropped = drop(values, p)
    dropped.sum().backward()  # type: ignore[no-untyped-call]
    scale = torch.tensor(1.0).to(dtype).mul_(1.0 / (1.0 - p)).item()
    assert set(dropped.unique().tolist()) == {0.0, scale}
    assert values.grad is not None
    assert torch.equal(values.grad, dropped.detach())
    deviation = (p * (1 - p) / values.numel()) ** 0.5
    assert abs((dropped == 0).double().mean().item() - p) < 5 * deviation


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    is_dropped = (drop(torch.ones(2**18), 0.5) == 0).double()
    for distance in (1, 2, 3, 4, 8):
        both = (is_dropped[distance:] * is_dropped[:-distance]).mean().item()
        assert both == pytest.approx(0.25, abs=0.01)


def test_the_seed_decides_and_evaluation_drops_nothing() -> None:
    module, values = Dropout(0.3), torch.randn(33, 7)
    torch.manual_seed(5)
    first = module(values)
    torch.manual_seed(5)
    assert torch.equal(module(values), first)
    assert not torch.equal(module(values), first)
    assert module.eval()(values) is values


def test_a_model_computes_as_with_torchs_attention_and_is_saved_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(2)
    folder = write_base_model(tmp_path / "base", dropout=NEGLIGIBLE, labels=LABELS)
    model, fast = (AutoModelForSequenceClassification.from_pretrained(folder) for _ in range(2))
    use_fast_dropout(fast)
    assert not [module for module in fast.modules() if type(module) is nn.Dropout]
    assert fast.config._attn_implementation == ATTENTION
    token_ids = torch.randint(5, 40, (4, 9))
    mask = (torch.arange(9) < torch.tensor([[9], [7], [2], [1]])).long()
    expected = model.eval()(input_ids=token_ids, attention_mask=mask).logits
    assert torch.allclose(fast.train()(input_ids=token_ids, attention_mask=mask).logits, expected, atol=1e-5)
    assert torch.allclose(fast.eval()(input_ids=token_ids).logits, model(input_ids=token_ids).logits, atol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    fast.save_pretrained(tmp_path / "saved-fast")
    names = ["config.json", "model.safetensors"]
    assert all((tmp_path / "saved" / n).read_bytes() == (tmp_path / "saved-fast" / n).read_bytes() for n in names)
