"""LoRA (Hu et al., 2021, https://arxiv.org/abs/2106.09685) with peft: small matrices beside frozen weights.

What is trained and stored is the adapters and the classification head; before a model is exported and registered, the
adapters are merged into the weights, and it is a plain model again. peft is imported where it is used: that takes 0.4
s, which trials without adapters need not wait for.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from common.base_model import load_config
from common.errors import ModelError
from tune.quiet import quiet

if TYPE_CHECKING:
    from peft import PeftModel

    from common.recipe import Lora

ADAPTER_CONFIG_FILE = "adapter_config.json"
"""What tells a checkpoint of adapters from one of a whole model."""

ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"

BASE_FILE = "base_model.json"
"""In a checkpoint of adapters: which weights they were trained on."""

_NUMBERS_SAMPLED = 64


def add_adapters(model: PreTrainedModel, lora: "Lora") -> PreTrainedModel:
    """The model with new adapters on its encoder and a trainable head; all else is frozen.

    Raises:
        ModelError: when a target module is not there.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target_modules(model, lora.target_modules),
        modules_to_save=head_modules(model),
    )
    with quiet():
        return cast(PreTrainedModel, get_peft_model(model, config))


def load_adapters(model: PreTrainedModel, checkpoint: Path) -> PreTrainedModel:
    """The model with the adapters and the head of a checkpoint, to be trained on.

    Raises:
        ModelError: when they were trained on another base model.
    """
    from peft import PeftModel

    check_base(model, checkpoint)
    with quiet():
        return cast(PreTrainedModel, PeftModel.from_pretrained(model, checkpoint, is_trainable=True))


def merge(model: PreTrainedModel, checkpoint: Path, folder: Path) -> Path:
    """Writes the model with a checkpoint's adapters merged into it to the new `folder`, the tokenizer beside it."""
    merged = cast("PeftModel", load_adapters(model, checkpoint)).merge_and_unload()
    shutil.copytree(
        checkpoint, folder, ignore=shutil.ignore_patterns("adapter_*", BASE_FILE, "manifest.json", "README.md")
    )
    with quiet():
        merged.save_pretrained(folder)
    return folder


def save_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Writes the adapters and the head, and nothing of the frozen weights."""
    # peft would else look the base model up, to see whether its vocabulary was enlarged.
    cast("PeftModel", model).save_pretrained(str(folder), save_embedding_layers=False)
    base = cast(PreTrainedModel, cast("PeftModel", model).get_base_model())
    (folder / BASE_FILE).write_text(json.dumps({"fingerprint": fingerprint(base)}))


def check_base(model: PreTrainedModel, checkpoint: Path) -> None:
    """Raises `ModelError` when a checkpoint's adapters were trained on another base model than this one."""
    trained_on = json.loads((checkpoint / BASE_FILE).read_text())["fingerprint"]
    if trained_on != fingerprint(model):
        raise ModelError(
            f"the adapters in {checkpoint} were trained on other weights than those that model.base has now; give the "
            "base model that they were trained on, or train again"
        )


def fingerprint(model: PreTrainedModel) -> str:
    """Tells an encoder's frozen weights from any others: sha256 (hex) of some sixty numbers of each tensor.

    A few milliseconds where a digest of all would take a second; any training changes every tensor.
    """
    digest = hashlib.sha256()
    names = {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in model.base_model.named_parameters()
        if ".lora_" not in name
    }
    for name, parameter in sorted(names.items()):
        numbers = parameter.detach().flatten()
        sample = numbers[:: max(1, len(numbers) // _NUMBERS_SAMPLED)].float().cpu().numpy()
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode() + sample.tobytes())
    return digest.hexdigest()


def scaling(checkpoint: Path) -> float:
    """What the output of a checkpoint's adapters is multiplied with: alpha / r."""
    config = json.loads((checkpoint / ADAPTER_CONFIG_FILE).read_text())
    return float(config["lora_alpha"] / config["r"])


def target_modules(model: PreTrainedModel, named: Sequence[str] | None) -> list[str]:
    """The names that adapters go beside: those that the recipe gives, or all linear layers of the encoder.

    Raises:
        ModelError: when a given name fits no linear layer; it names those there are.
    """
    encoder = set(model.base_model.modules())
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module in encoder]
    if named is None:
        return linear
    for target in named:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            there = ", ".join(dict.fromkeys(name.rsplit(".", 1)[-1] for name in linear))
            raise ModelError(
                f"model.lora.target_modules: no linear layer of the encoder is called {target!r}; there are: {there}"
            )
    return list(named)


def num_trained(model: PreTrainedModel, lora: "Lora") -> int:
    """How many parameters the adapters and the head of a model have."""
    adapted = target_modules(model, lora.target_modules)
    linear = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(f".{name}".endswith(f".{target}") for target in adapted)
    ]
    in_adapters = sum(lora.r * (module.in_features + module.out_features) for module in linear)
    in_head = sum(p.numel() for name in head_modules(model) for p in model.get_submodule(name).parameters())
    return in_adapters + in_head


def blank_model(base_model: str, num_labels: int, revision: str | None = None) -> PreTrainedModel:
    """The architecture of a base model (a folder, or the Hub's at a revision) without any weights.

    Raises:
        ModelError: when there is no such model.
    """
    config = load_config(base_model, revision)
    config.num_labels = num_labels
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    return model


def head_modules(model: PreTrainedModel) -> list[str]:
    """The names of what is on top of the encoder: it has nothing to adapt, so it is trained as a whole."""
    return [
        name
        for name, module in model.named_children()
        if module is not model.base_model and any(True for _ in module.parameters())
    ]
