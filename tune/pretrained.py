"""A pretrained encoder with a classification head for the data's labels, and what fine-tuning made of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import pyarrow.fs
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from common.errors import ModelError, TrainingError
from common.head_labels import head_outputs
from common.location import filesystem, local_path
from common.tokenised import PreparedData, local_base_model
from tune.adapter_export import SplitModel
from tune.adapters import ADAPTER_CONFIG_FILE, add_adapters, load_adapters, merge, save_adapters
from tune.checkpoint import MANIFEST_FILE, damage
from tune.quiet import quiet

if TYPE_CHECKING:
    from common.recipe import Lora


def load_trainable(
    base_model: str,
    labels: Sequence[str],
    pad_token_id: int,
    *,
    lora: "Lora | None",
    checkpoint: Path | None,
    new_head: bool = False,
) -> PreTrainedModel:
    """The model to train, new or as a checkpoint has it; with `lora`, a base model with adapters.

    Raises:
        ModelError: when the adapters' target modules are not there, or the base model's head knows other labels.
    """
    if lora is None and checkpoint is not None:
        return load_classifier(str(checkpoint), labels, pad_token_id)
    if lora is None:
        return load_classifier(base_model, labels, pad_token_id, new_head=new_head)
    model = load_classifier(base_model, labels, pad_token_id, new_head=new_head, frozen=True)
    return add_adapters(model, lora) if checkpoint is None else load_adapters(model, checkpoint)


def save_trainable(model: PreTrainedModel, folder: Path) -> None:
    """Writes what `load_trainable` needs: the model, or of one with adapters these and the head."""
    with quiet():
        if isinstance(model, PreTrainedModel):
            model.save_pretrained(folder)
        else:  # peft's wrapper, which passes all else on to the model
            save_adapters(model, folder)


def load_classifier(
    folder: str, labels: Sequence[str], pad_token_id: int, *, new_head: bool = False, frozen: bool = False
) -> PreTrainedModel:
    """Loads a model in fp32 whose outputs are the given labels, in their order.

    A head that knows these labels by name keeps its outputs for them, put in our order. Where there is none, or with
    `new_head`, it is drawn anew, from torch's global generator: seed it first.

    Args:
        folder: What `from_pretrained` takes.
        labels: The label of each output.
        pad_token_id: Written to the configuration, for models that look for padding themselves.
        new_head: Whether a head that is there is not taken over.
        frozen: For adapters, with which no weights of the encoder are stored: what its files lack of them, such as the
            pooler of a masked language model, is drawn the same every time.

    Raises:
        ModelError: Its head knows other labels, or its weights are pickled together with something else than weights.
    """
    # That the head is new is what fine-tuning is about.
    with quiet(), _drawing_the_same() if frozen else nullcontext():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kept = None if new_head else head_outputs(config, labels, folder)
        if kept is None:
            config.num_labels = len(labels)
        config.pad_token_id = pad_token_id
        config.problem_type = "single_label_classification"
        try:
            model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                trust_remote_code=False,
                dtype=torch.float32,  # whatever the file holds: weights and optimiser state stay in fp32
                ignore_mismatched_sizes=True,
            )
        except UnpicklingError as error:  # transformers has torch read nothing but weights
            raise ModelError(
                f"model.base {folder}: pytorch_model*.bin holds more than weights, which may be code and is never "
                "run; take the model in safetensors"
            ) from error
    _fit_head(model, labels, kept)
    return model


def local_checkpoint(checkpoint: str, destination: Path) -> Path:
    """The checkpoint folder itself when it is on this machine, else a copy in the new folder `destination`.

    Raises `TrainingError` when it is no checkpoint, or not a whole one.
    """
    folder = local_path(checkpoint)
    if folder is None:
        files, path = filesystem(checkpoint)
        destination.mkdir()
        if files.get_file_info(path).type is pyarrow.fs.FileType.Directory:
            pyarrow.fs.copy_files(path, str(destination), source_filesystem=files)
        folder = destination
    if not any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG_FILE)):
        raise TrainingError(f"{checkpoint} is not a checkpoint: it has no config.json; train again")
    problem = damage(str(folder)) if (folder / MANIFEST_FILE).is_file() else None
    if problem is not None:
        raise TrainingError(f"checkpoint {checkpoint} was cut short ({problem}); train again")
    return folder


def plain_model(checkpoint: Path, prepared: PreparedData, destination: Path) -> Path:
    """The checkpoint itself, or, where it holds adapters, the base model with them merged in the new `destination`."""
    if not (checkpoint / ADAPTER_CONFIG_FILE).is_file():
        return checkpoint
    return merge(load_base(prepared, frozen=True), checkpoint, destination)


def split_model(checkpoint: Path, prepared: PreparedData) -> SplitModel | None:
    """A checkpoint of adapters as the base model and what they add to it; None when it holds a whole model."""
    if not (checkpoint / ADAPTER_CONFIG_FILE).is_file():
        return None
    return SplitModel.of(load_base(prepared, frozen=True), checkpoint)


def load_base(prepared: PreparedData, *, frozen: bool = False) -> PreTrainedModel:
    """The base model as training starts from it, on this machine; `frozen` for adapters. Raises `ModelError`."""
    return load_classifier(
        local_base_model(prepared),
        prepared.labels,
        prepared.pad_token_id,
        new_head=prepared.new_head,
        frozen=frozen,
    )


@contextmanager
def _drawing_the_same() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _fit_head(model: PreTrainedModel, labels: Sequence[str], kept: Sequence[int] | None) -> None:
    """Makes the labels the head's outputs: those of its own at the places `kept`, or new ones."""
    encoder = set(model.base_model.modules())
    outputs = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module not in encoder and module.out_features == model.config.num_labels
    ][-1]
    if kept is not None:
        for name, parameter in list(outputs.named_parameters()):
            setattr(outputs, name, nn.Parameter(parameter.detach()[list(kept)].clone()))
        outputs.out_features = len(labels)
    else:
        with torch.no_grad():
            outputs.weight.normal_(std=getattr(model.config, "initializer_range", 0.02))
            if outputs.bias is not None:
                outputs.bias.zero_()
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}
    model.num_labels = len(labels)  # type: ignore[assignment]
