"""The engine of a replica with a GPU: the registered model's own weights, in 16 bits, by torch.

Only such a replica imports this module, which needs what the extra `serve-gpu` installs. Tokenizer, labels and length
are those of the export that CPU replicas run; its int8 graph is nothing for a GPU, so the weights beside it are loaded.
"""

import os
from pathlib import Path

import torch
import transformers

from common.classifier import Classifier, Inputs, Logits, Model
from common.errors import ModelError, ServingError

BATCH_SIZE = 64
"""Texts per forward pass: as many as the gateway sends at once. A GPU has work for all of them."""

PASS_TOKENS = 1000
"""What a pass costs in tokens, estimated: some milliseconds to launch its kernels, some microseconds for each token."""


def load(folder: Path, weights: Path) -> Classifier:
    """The exported model in `folder` with its forward pass on this process's GPU, ready for the first batch.

    `weights` is a folder with `config.json` and safetensors.

    Raises:
        ServingError: this process sees no GPU.
        ModelError: files are missing or do not fit together.
    """
    if not torch.cuda.is_available():
        raise ServingError(
            f"serve.num_gpus asks for a GPU and this replica sees none (torch {torch.__version__}, "
            f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')!r}); check the node's driver and that its "
            "torch is a CUDA build, or set serve.num_gpus=0"
        )
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    classifier = load_on(torch.device("cuda"), torch.bfloat16 if native else torch.float16, folder, weights)
    classifier.logits(["the first pass makes the CUDA context and chooses kernels"])
    return classifier


def load_on(device: torch.device, dtype: torch.dtype, folder: Path, weights: Path) -> Classifier:
    """The exported model in `folder` with its forward pass by torch; the logits are fp32 again. Raises `ModelError`."""
    exported = Classifier.load(folder)
    try:
        network = transformers.AutoModelForSequenceClassification.from_pretrained(
            weights, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{weights} holds no weights that transformers can load: {error}") from error
    named = tuple(network.config.id2label[index] for index in range(network.config.num_labels))
    if named != exported.labels:
        raise ModelError(f"{weights} has the labels {named} and {folder} {exported.labels}; promote the model again")
    return exported.with_model(_forward_by(network.to(device).eval(), device), BATCH_SIZE, PASS_TOKENS)


def _forward_by(network: torch.nn.Module, device: torch.device) -> Model:
    def forward(inputs: Inputs) -> Logits:
        tensors = {name: torch.from_numpy(values).to(device) for name, values in inputs.items()}  # each (B, T)
        with torch.inference_mode():
            logits: Logits = network(**tensors).logits.float().cpu().numpy()  # (B, C)
        return logits

    return forward
