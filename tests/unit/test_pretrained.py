"""Loading a base model with a head for the data's labels."""

import json
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from common.errors import ModelError, TrainingError
from common.head_labels import keeps_head
from common.recipe import Model
from tests.training_data import write_base_model
from tune.pretrained import load_classifier, local_checkpoint

STORED = ("down", "flat", "up")
HEAD = ("classifier.weight", "classifier.bias")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose head knows three labels, stored in half precision."""
    torch.manual_seed(0)
    folder = write_base_model(tmp_path_factory.mktemp("base"), labels=STORED)
    tensors = load_file(folder / "model.safetensors") | {"classifier.bias": torch.arange(3.0)}
    half = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load(folder: Path, *labels: str, seed: int = 0, new_head: bool = False) -> PreTrainedModel:
    torch.manual_seed(seed)
    return load_classifier(str(folder), labels, pad_token_id=3, new_head=new_head)


def test_a_head_that_knows_the_labels_is_kept_and_put_in_their_order(folder: Path) -> None:
    model = load(folder, "up", "down", "flat")

    stored = load_file(folder / "model.safetensors")
    for name in HEAD:
        assert torch.equal(model.get_parameter(name), stored[name][[2, 0, 1]].float())


def test_a_head_that_knows_more_labels_keeps_the_outputs_of_those_that_are_asked_for(folder: Path) -> None:
    model = load(folder, "up", "down")

    stored = load_file(folder / "model.safetensors")
    for name in HEAD:
        assert torch.equal(model.get_parameter(name), stored[name][[2, 0]].float())
    assert model(input_ids=torch.tensor([[2, 5, 3]])).logits.shape == (1, 2)


def test_labels_are_matched_whatever_their_case_and_keep_the_datas_own(folder: Path) -> None:
    model = load(folder, "UP", "Down", "flat")

    assert torch.equal(model.get_parameter(HEAD[1]), torch.tensor([2.0, 0.0, 1.0]))
    assert model.config.id2label == {0: "UP", 1: "Down", 2: "flat"}


@pytest.mark.parametrize(
    "labels", [("down", "flat", "sideways"), ("bear", "bull", "flat"), ("down", "flat", "up", "x")]
)
def test_a_head_for_other_labels_is_refused_with_both_ways_out_and_never_wired_by_position(
    folder: Path, labels: tuple[str, ...]
) -> None:
    unknown = ", ".join(label for label in labels if label not in STORED)
    with pytest.raises(
        ModelError,
        match=rf"a classifier of down, flat, up; .* does not know {unknown}\. .*data\.label_names.*model\.head=new",
    ):
        load(folder, *labels)


def test_the_same_is_refused_before_anything_starts_by_the_configuration_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").touch()  # never read
    base = str(tmp_path)

    assert keeps_head(Model(base=base), ("Up", "down"))
    assert not keeps_head(Model(base=base, head="new"), ("bear", "bull"))
    with pytest.raises(ModelError, match="does not know bear, bull"):
        keeps_head(Model(base=base), ("bear", "bull"))


@pytest.mark.parametrize("labels", [STORED, ("down", "up"), ("a", "b", "c", "d")])
def test_a_new_head_is_drawn_from_torchs_generator_whatever_head_there_was(
    folder: Path, labels: tuple[str, ...]
) -> None:
    model, again, other = (load(folder, *labels, seed=seed, new_head=True) for seed in (0, 0, 1))

    weights = [drawn.get_parameter(HEAD[0]) for drawn in (model, again, other)]
    assert weights[0].shape == (len(labels), 16)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not model.get_parameter(HEAD[1]).any()
    stored = load_file(folder / "model.safetensors")
    for name, parameter in model.base_model.named_parameters():
        assert torch.equal(parameter, stored[f"bert.{name}"].float())


def test_outputs_that_nobody_has_named_are_not_taken_for_the_datas_labels(tmp_path: Path) -> None:
    unnamed = load_file(write_base_model(tmp_path / "unnamed") / "model.safetensors")
    model = load(tmp_path / "unnamed", "down", "up")
    assert not torch.equal(model.get_parameter(HEAD[0]), unnamed[HEAD[0]])

    model = load(tmp_path / "unnamed", "LABEL_1", "LABEL_0")  # the data's own names
    assert torch.equal(model.get_parameter(HEAD[0]), unnamed[HEAD[0]][[1, 0]])


def test_weights_are_in_full_precision_and_the_configuration_knows_the_labels(folder: Path) -> None:
    model = load(folder, "up", "down", "flat")

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.id2label == {0: "up", 1: "down", 2: "flat"}
    assert model.config.label2id == {"up": 0, "down": 1, "flat": 2}
    assert model.config.pad_token_id == 3


def test_a_checkpoint_elsewhere_is_copied_and_a_local_one_used_where_it_is(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/test_promote_decision/checkpoint/config.json", b"{}")

    copy = local_checkpoint("memory://test_promote_decision/checkpoint", tmp_path / "copy")

    assert (copy / "config.json").read_text() == "{}"
    assert local_checkpoint(copy.as_uri(), tmp_path / "another") == copy
    assert not (tmp_path / "another").exists()


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"{tmp_path} is not a checkpoint: it has no config.json; train again"):
        local_checkpoint(str(tmp_path), tmp_path / "copy")
