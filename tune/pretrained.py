"""A pretrained encoder with a classification head for the data's labels, and what fine-tuning made of it."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.fs
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from common.errors import TrainingError
from common.location import filesystem, local_path
from tune.quiet import quiet


def load_classifier(folder: str, labels: Sequence[str], pad_token_id: int) -> PreTrainedModel:
    """Loads a model in fp32 whose outputs are the given labels, in their order.

    A head that knows exactly these labels is kept, its outputs put in our order. Any other head is drawn anew, from
    torch's global generator: seed it first.

    Args:
        folder: What `from_pretrained` takes.
        labels: The label of each output.
        pad_token_id: Written to the configuration, for models that look for padding themselves.
    """
    with quiet():  # that the head is new is what fine-tuning is about
        names = AutoConfig.from_pretrained(folder).id2label or {}
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,  # whatever the file holds: weights and optimiser state stay in fp32
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            pad_token_id=pad_token_id,
            problem_type="single_label_classification",
            ignore_mismatched_sizes=True,
        )
    _fit_head(model, [names[index] for index in sorted(names)], labels)
    return model


def local_checkpoint(checkpoint: str, destination: Path) -> Path:
    """The checkpoint folder itself when it is on this machine, else a copy in the new folder `destination`.

    Raises `TrainingError` when it is no checkpoint.
    """
    folder = local_path(checkpoint)
    if folder is None:
        files, path = filesystem(checkpoint)
        destination.mkdir()
        if files.get_file_info(path).type is pyarrow.fs.FileType.Directory:
            pyarrow.fs.copy_files(path, str(destination), source_filesystem=files)
        folder = destination
    if not (folder / "config.json").is_file():
        raise TrainingError(f"{checkpoint} is not a checkpoint: it has no config.json; train again")
    return folder


def _fit_head(model: PreTrainedModel, known: Sequence[str], labels: Sequence[str]) -> None:
    encoder = set(model.base_model.modules())
    outputs = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module not in encoder and module.out_features == len(labels)
    ][-1]
    with torch.no_grad():
        if sorted(known) == sorted(labels):
            order = [known.index(label) for label in labels]
            outputs.weight.copy_(outputs.weight[order].clone())
            if outputs.bias is not None:
                outputs.bias.copy_(outputs.bias[order].clone())
        else:
            outputs.weight.normal_(std=getattr(model.config, "initializer_range", 0.02))
            if outputs.bias is not None:
                outputs.bias.zero_()
