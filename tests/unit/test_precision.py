import pytest
import torch

from tune.precision import compute_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, torch.float32),
        ({"neon": True}, torch.float32),
    ],
)
def test_auto_is_bf16_on_cpus_that_have_it_natively(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert compute_dtype("auto", CPU) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_is_fp16_on_gpus_that_only_emulate_bf16(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert compute_dtype("auto", GPU) == expected
    assert compute_dtype("fp16", GPU) == torch.float16


def test_a_chosen_precision_is_kept_and_emulated_bf16_is_warned_about(monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert compute_dtype("fp32", CPU) == torch.float32
    assert not caplog.records
    assert compute_dtype("bf16", CPU) == torch.bfloat16
    assert "bf16 is emulated on this cpu" in caplog.text
    with pytest.raises(ValueError, match="fp16 trains on GPUs only; use auto, bf16 or fp32"):
        compute_dtype("fp16", CPU)
