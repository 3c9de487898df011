"""A model with adapters in two parts for serving: the base model's ONNX graph, and what the adapters add to it.

The graph takes adapters of any rank and the head as inputs, so it is the same file, byte by byte, for all adapters
beside the same layers of one base model, and a process holds it once (`common.adapter`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import onnx
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from common.adapter import Adapter, base_digest
from tune.adapters import ADAPTER_WEIGHTS_FILE, check_base, head_modules, scaling

_PREFIX = "base_model.model."
"""What peft puts before the names of a model's own modules."""

_EXAMPLE_RANK, _EXAMPLE_LABELS = 4, 3
"""Those of the tensors that the graph is traced with: more than 1, which the exporter takes for a constant."""


class Adapted(nn.Module):
    """A linear layer with an adapter beside it: y = W x + b + up(down(x)), alpha / r being part of `up`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.ones(linear.in_features, _EXAMPLE_RANK))  # (in, r)
        self.up = nn.Parameter(torch.ones(_EXAMPLE_RANK, linear.out_features))  # (r, out)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out)."""
        added: torch.Tensor = self.linear(hidden) + hidden @ self.down @ self.up
        return added


@dataclass(frozen=True)
class SplitModel:
    """A base model whose adapters and head are inputs, and one checkpoint's values for them."""

    model: PreTrainedModel
    """With an `Adapted` in the place of each layer that has an adapter."""
    tensors: Mapping[str, torch.Tensor]
    """Of the checkpoint, by the name of the model's parameter that each is in the place of."""

    @classmethod
    def of(cls, base: PreTrainedModel, checkpoint: Path) -> Self:
        """Puts a checkpoint of adapters beside the base model that it was trained on, which is changed.

        Raises:
            ModelError: when they were trained on another base model.
        """
        check_base(base, checkpoint)
        stored = load_file(checkpoint / ADAPTER_WEIGHTS_FILE)
        named = {name.removeprefix(_PREFIX): tensor for name, tensor in stored.items()}
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in named.items():
            layer, _, kind = name.removesuffix(".weight").rpartition(".")
            if kind == "lora_A":
                parent, _, last = layer.rpartition(".")
                setattr(base.get_submodule(parent), last, Adapted(base.get_submodule(layer)))  # type: ignore[arg-type]
                tensors[f"{layer}.down"] = tensor.T
            elif kind == "lora_B":
                tensors[f"{layer}.up"] = tensor.T * scaling(checkpoint)
            else:
                tensors[name] = tensor
        base.train(False)
        return cls(base, dict(sorted(tensors.items())))

    def export(self, tokenizer: Any, path: Path) -> None:
        """Writes the base model's graph, which holds nothing of the checkpoint."""
        names = list(tokenizer.model_input_names)
        example = tokenizer(["one text", "another, longer text"], padding=True, return_tensors="pt")
        batch = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
        traced, shapes = zip(*(self._example(name) for name in self.tensors), strict=True)
        torch.onnx.export(
            _Inputs(self.model, names, list(self.tensors)),
            (*(example[name] for name in names), *traced),
            path,
            input_names=[*names, *self.tensors],
            output_names=["logits"],
            dynamic_shapes=((*(batch for _ in names), *shapes),),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        _strip(path)

    def write_adapter(self, folder: Path, model_file: str) -> None:
        """Writes the checkpoint's tensors beside the base model's file in `folder`."""
        values = {name: tensor.contiguous().numpy() for name, tensor in self.tensors.items()}
        Adapter(base_digest(folder / model_file), values).write(folder)

    def _example(self, name: str) -> tuple[torch.Tensor, dict[int, Any]]:
        """What stands for a tensor while the graph is traced, and which of its dimensions are free."""
        own = self.model.get_parameter(name).detach()
        if name.endswith((".down", ".up")):
            return own, {1 if name.endswith(".down") else 0: torch.export.Dim("rank")}
        if name.rpartition(".")[0] == self._output_layer():
            return own.new_ones(_EXAMPLE_LABELS, *own.shape[1:]), {0: torch.export.Dim("labels")}
        return own, {}

    def _output_layer(self) -> str:
        """The layer of the head whose outputs are the labels."""
        head = tuple(head_modules(self.model))
        linear: list[str] = [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
        return next(name for name in reversed(linear) if name.partition(".")[0] in head)


class _Inputs(nn.Module):
    """The exporter wants positional tensors in and tensors out: tokens first, then those in the place of parameters."""

    def __init__(self, model: nn.Module, token_names: Sequence[str], parameter_names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.token_names = token_names
        self.parameter_names = parameter_names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """(B, T) token tensors and the adapters' to (B, C) logits."""
        num_tokens = len(self.token_names)
        parameters = dict(zip(self.parameter_names, inputs[num_tokens:], strict=True))
        tokens = dict(zip(self.token_names, inputs[:num_tokens], strict=True))
        logits: torch.Tensor = torch.func.functional_call(self.model, parameters, kwargs=tokens).logits
        return logits


def _strip(path: Path) -> None:
    """Leaves out of a graph what says how it came about, such as places in source code: it is no part of the model."""
    model = onnx.load(path)
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.save(model, str(path))
