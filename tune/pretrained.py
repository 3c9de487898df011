"""A pretrained encoder with a classification head for the data's labels."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

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
