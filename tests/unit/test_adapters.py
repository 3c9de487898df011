"""LoRA: adapters and head are what is trained and stored, and what is registered is a plain model."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from common.errors import ModelError, RecipeError
from common.recipe import Lora, Recipe
from common.recipe_file import load_recipe, shipped_recipes
from tests.training_data import LABELS, loop_settings, write_base_model, write_data
from tests.unit.test_train_loop import curve, run
from tune.adapter_export import SplitModel
from tune.adapters import BASE_FILE, blank_model, merge, num_trained, target_modules
from tune.checkpoint import damage
from tune.model_checks import refuse_unknown_modules
from tune.pretrained import load_classifier, load_trainable

LORA = Lora(r=4, alpha=8, dropout=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(1)
    write_data(folder / "data")
    write_base_model(folder / "base")
    return folder


def recipe(*overrides: str) -> Recipe:
    return load_recipe(shipped_recipes()["quickstart"], overrides)


def logits(model: PreTrainedModel) -> torch.Tensor:
    model.train(False)
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.arange(2, 22).reshape(2, 10)).logits
    return found


def test_adapters_learn_and_a_checkpoint_holds_them_and_the_head_alone(folder: Path, tmp_path: Path) -> None:
    history = run(loop_settings(folder / "data", folder / "base", lora=LORA), tmp_path)
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]
    assert not list(tmp_path.rglob("model.safetensors"))
    stored = load_file(tmp_path / "1" / "adapter_model.safetensors")
    assert all("lora_" in name or "classifier" in name for name in stored)
    assert {name.split(".")[-2] for name in stored if "lora_" not in name} == {"classifier"}
    assert sum(tensor.numel() for tensor in stored.values()) == num_trained(blank_model(str(folder / "base"), 3), LORA)
    assert damage(str(tmp_path / "1")) is None


def test_a_resumed_training_of_adapters_ends_as_if_it_had_not_been_interrupted(folder: Path, tmp_path: Path) -> None:
    config = loop_settings(folder / "data", folder / "base", lora=LORA)
    whole = run(config, tmp_path / "whole")
    rest = run(config, tmp_path / "rest", resume_from=tmp_path / "whole" / "1")
    assert curve(rest) == curve(whole)[1:]
    stored, resumed = (load_file(tmp_path / name / "3" / "adapter_model.safetensors") for name in ("whole", "rest"))
    assert all(torch.equal(stored[name], resumed[name]) for name in stored)


def test_merging_gives_a_plain_model_with_the_same_answers(folder: Path, tmp_path: Path) -> None:
    run(loop_settings(folder / "data", folder / "base", lora=LORA, epochs=1), tmp_path)
    adapted = load_trainable(str(folder / "base"), LABELS, 0, lora=LORA, checkpoint=tmp_path / "1")
    expected = logits(adapted)
    base = load_classifier(str(folder / "base"), LABELS, 0)
    untrained = logits(base).clone()
    merged = merge(base, tmp_path / "1", tmp_path / "merged")
    plain = AutoModelForSequenceClassification.from_pretrained(merged)
    assert torch.allclose(logits(plain), expected, atol=1e-5)
    assert not torch.allclose(untrained, expected, atol=1e-3)
    assert plain.config.id2label == dict(enumerate(LABELS))
    assert {"tokenizer.json", "history.json"} <= {path.name for path in merged.iterdir()}
    assert not (merged / BASE_FILE).exists()
    assert not list(merged.glob("adapter_*"))


def test_adapters_of_another_base_model_are_refused(folder: Path, tmp_path: Path) -> None:
    run(loop_settings(folder / "data", folder / "base", lora=LORA, epochs=2), tmp_path)
    torch.manual_seed(2)
    write_base_model(tmp_path / "other")
    other = load_classifier(str(tmp_path / "other"), LABELS, 0, frozen=True)
    with pytest.raises(ModelError, match=r"adapters in .* were trained on other weights than those that model.base"):
        merge(other, tmp_path / "1", tmp_path / "merged")
    with pytest.raises(ModelError, match=r"were trained on other weights"):
        SplitModel.of(other, tmp_path / "1")
    with pytest.raises(ModelError, match=r"were trained on other weights"):
        run(loop_settings(folder / "data", tmp_path / "other", lora=LORA, epochs=2), resume_from=tmp_path / "1")
    assert not (tmp_path / "merged").exists()


def test_what_the_base_model_lacks_is_the_same_when_the_adapters_are_merged(folder: Path, tmp_path: Path) -> None:
    """A masked language model comes without a pooler, and adapters store none."""
    shutil.copytree(folder / "base", tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    encoder = {name: tensor for name, tensor in weights.items() if "pooler" not in name and "classifier" not in name}
    save_file(encoder, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    run(loop_settings(folder / "data", tmp_path / "base", lora=LORA, epochs=1), tmp_path)
    base = str(tmp_path / "base")
    torch.manual_seed(7)
    adapted = load_trainable(base, LABELS, 0, lora=LORA, checkpoint=tmp_path / "1")
    torch.manual_seed(8)
    merged = merge(load_classifier(base, LABELS, 0, frozen=True), tmp_path / "1", tmp_path / "merged")
    plain = AutoModelForSequenceClassification.from_pretrained(merged)
    assert torch.allclose(logits(plain), logits(adapted), atol=1e-5)


def test_each_seed_has_a_new_head_of_its_own(folder: Path) -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = load_trainable(str(folder / "base"), LABELS, 0, lora=LORA, checkpoint=None)
        heads.append(dict(model.named_parameters())["base_model.model.classifier.modules_to_save.default.weight"])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_base_model_and_adapters_in_two_parts_give_what_they_give_merged(folder: Path, tmp_path: Path) -> None:
    run(loop_settings(folder / "data", folder / "base", lora=LORA, epochs=1), tmp_path)
    base = load_classifier(str(folder / "base"), LABELS, 0, frozen=True)
    merged = AutoModelForSequenceClassification.from_pretrained(merge(base, tmp_path / "1", tmp_path / "merged"))
    split = SplitModel.of(load_classifier(str(folder / "base"), LABELS, 0, frozen=True), tmp_path / "1")
    with torch.no_grad():
        for name, tensor in split.tensors.items():
            split.model.get_parameter(name).data = tensor
    assert torch.allclose(logits(split.model), logits(merged), atol=1e-5)


def test_adapters_go_where_the_recipe_says_and_else_to_all_linear_layers_of_the_encoder(folder: Path) -> None:
    model = blank_model(str(folder / "base"), 3)
    everywhere = target_modules(model, None)
    assert all(name.startswith("bert.") for name in everywhere)
    assert {"query", "key", "value", "dense"} == {name.rsplit(".", 1)[-1] for name in everywhere}
    assert target_modules(model, ("query", "output.dense")) == ["query", "output.dense"]


@pytest.mark.parametrize("named", ["q_proj", "classifier", "ery"])
def test_a_target_module_that_is_not_there_is_refused_with_those_that_are(named: str) -> None:
    asked = recipe(f"model.lora={{target_modules: [query, {named}]}}")
    with pytest.raises(ModelError, match=rf"is called '{named}'; there are: query, key, value, dense"):
        refuse_unknown_modules(asked, ["some texts", "of any kind"], num_labels=3)


def test_adapters_are_searched_like_the_rest() -> None:
    asked = recipe(
        "model.lora={}",
        "search.space.lora.r.choice=[4, 16]",
        "search.space.lora.alpha={log_int: [8, 64], when: {lora.r: [16]}}",
    )
    assert set(asked.search.space) >= {"lora.r", "lora.alpha"}
    tried = asked.with_params({"lora.r": 16, "lora.alpha": 32, "learning_rate": 1e-3, "seed": 5})
    assert tried.model.lora == Lora(r=16, alpha=32)
    assert (tried.train.learning_rate, tried.train.seed) == (1e-3, 5)
    assert asked.largest_lora == Lora(r=16)


def test_target_modules_are_searched_as_texts_and_each_choice_is_checked_before_anything_starts() -> None:
    asked = recipe("model.lora={r: 4}", 'search.space.lora.target_modules.choice=["query,value", all-linear]')
    assert [lora.target_modules for lora in asked.loras] == [("query", "value"), None]
    assert asked.with_params({"lora.target_modules": "query, value"}).model.lora == Lora(
        r=4, target_modules=("query", "value")
    )
    assert asked.with_params({"lora.target_modules": "all-linear"}).model.lora == Lora(r=4)
    assert asked.largest_lora == Lora(r=4)
    narrower = recipe("model.lora={}", 'search.space.lora.target_modules.choice=["query,value", "value,key"]')
    assert narrower.largest_lora == Lora(target_modules=("query", "value", "key"))

    unknown = recipe("model.lora={}", 'search.space.lora.target_modules.choice=[query, "query,valve"]')
    with pytest.raises(ModelError, match="no linear layer of the encoder is called 'valve'"):
        refuse_unknown_modules(unknown, ["a text"], 2)
    with pytest.raises(RecipeError, match=r"lora\.target_modules"):
        recipe("model.lora={}", "search.space.lora.target_modules.choice=[query, 3]")
