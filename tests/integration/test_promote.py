"""Promotion from end to end: real exports, a real MLflow database, no Ray."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml

from common.classifier import Classifier
from common.errors import PromotionError, RegistryError, TrainingError
from common.recipe import Recipe
from common.registry import ModelRegistry
from common.tokenised import PreparedData, read_split
from common.tracking import Tracker, sqlite_uri
from tests.candidates import fine_tune, prepare_texts
from tests.tiny_model import register as register_by_hand
from tune.export import ExportReport, export
from tune.promote import Promotion, promote
from tune.train_loop import history_of


@dataclass(frozen=True)
class World:
    folder: Path
    recipe: Recipe
    prepared: PreparedData
    tracker: Tracker
    registry: ModelRegistry
    checkpoints: dict[str, Path]

    def train(self) -> str:
        """A finished training run."""
        run_id = self.tracker.start("trial", params={"learning_rate": 0.01})
        self.tracker.finish(run_id)
        return run_id

    def promote(self, candidate: str, run_id: str, **changes) -> Promotion:
        prepared = changes.pop("prepared", self.prepared)
        alias = changes.pop("alias", "champion")
        recipe = self.recipe.model_copy(update=changes)
        storage = str(self.folder / "storage")
        checkpoint = str(self.checkpoints[candidate])
        return promote(recipe, prepared, checkpoint, self.tracker, run_id, "name: words\n", storage, alias)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("promotion")
    recipe, prepared = prepare_texts(folder)
    uri = sqlite_uri(str(folder / "storage"))
    checkpoints = {
        name: fine_tune(prepared, folder / name, learning_rate=learning_rate)
        for name, learning_rate in {"weak": 1e-5, "strong": 1e-2}.items()
    }
    return World(folder, recipe, prepared, Tracker.open(uri, "words"), ModelRegistry(uri), checkpoints)


@pytest.fixture(scope="module", autouse=True)
def exports() -> Iterator[dict[str, tuple[Path, ExportReport]]]:
    """Each checkpoint's export, which takes seconds: it is made once, whatever the checkpoint is promoted as."""
    made: dict[str, tuple[Path, ExportReport]] = {}

    def export_once(checkpoint: Path, folder: Path, **settings: Any) -> ExportReport:
        if checkpoint.name not in made:
            kept = checkpoint.with_name(f"{checkpoint.name}-exported")
            made[checkpoint.name] = kept, export(checkpoint, kept, **settings)
        kept, report = made[checkpoint.name]
        shutil.copytree(kept, folder)
        return report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tune.promote.export", export_once)
        yield made


@dataclass(frozen=True)
class Told:
    """A weak candidate, a strong one, another weak one: promoted in this order."""

    first: Promotion
    better: Promotion
    worse: Promotion
    run_ids: tuple[str, str, str]


@pytest.fixture(scope="module", autouse=True)
def told(world: World, exports: object) -> Told:
    runs = (world.train(), world.train(), world.train())
    first, better, worse = (
        world.promote(name, run_id) for name, run_id in zip(("weak", "strong", "weak"), runs, strict=True)
    )
    return Told(first, better, worse, runs)


def test_the_first_candidate_becomes_champion(told: Told) -> None:
    assert (told.first.model, told.first.version, told.first.promoted) == ("words", 1, True)
    assert told.first.gate["champion"] is None
    assert told.first.gate["test_split_uses"] == 0
    assert told.first.gate["rows"] == 193


def test_a_better_candidate_replaces_it(told: Told, world: World) -> None:
    gate = told.better.gate

    assert told.better.promoted
    assert world.registry.by_alias("words", "champion").version == told.better.version == 2
    assert gate["champion"] == told.first.metrics["accuracy"] < 0.5 < gate["candidate"]
    assert gate["difference"] == pytest.approx(gate["candidate"] - gate["champion"])
    assert 0 < gate["interval"][0] < gate["difference"] < gate["interval"][1]
    assert (gate["confidence"], gate["excluded_rows"], gate["test_split_uses"]) == (0.95, 0, 1)


def test_a_worse_candidate_is_registered_and_the_alias_stays(told: Told, world: World) -> None:
    assert (told.worse.version, told.worse.promoted) == (3, False)
    assert told.worse.gate["interval"][1] < 0
    assert told.worse.gate["test_split_uses"] == 2
    assert world.registry.by_alias("words", "champion").version == 2
    assert world.registry.by_version("words", 3).tags["tuneserve.gate"] == "not passed"


def test_the_champion_loads_as_a_pipeline_that_predicts_string_labels(
    told: Told, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.tracker.uri)
    rows = read_split(world.prepared, "test")

    pipeline = mlflow.transformers.load_model("models:/words@champion", truncation=True, max_length=16)
    labels = [answer["label"] for answer in pipeline(rows["text"].to_pylist())]
    long_text = mlflow.pyfunc.load_model("models:/words@champion").predict(["w1 " * 500])

    actual = [world.prepared.labels[index] for index in rows["label"].to_pylist()]
    assert np.mean([ours == theirs for ours, theirs in zip(labels, actual, strict=True)]) > 0.8
    assert long_text["label"][0] in world.prepared.labels


def test_the_registered_onnx_model_scores_what_the_promotion_says(told: Told, world: World, tmp_path: Path) -> None:
    folder = world.registry.download(world.registry.by_version("words", 2), "onnx", tmp_path)
    rows = read_split(world.prepared, "test")

    classifier = Classifier.load(folder)

    predicted = classifier.logits(rows["text"].to_pylist()).argmax(axis=1)
    assert np.mean(predicted == rows["label"].to_numpy()) == pytest.approx(told.better.metrics["accuracy"])
    assert classifier.labels == world.prepared.labels
    assert classifier.max_length == 16


def test_everything_about_a_version_is_in_its_folder(told: Told, world: World) -> None:
    folder = Path(world.registry.by_version("words", 2).uri.removeprefix("file://"))
    card = (folder / "README.md").read_text()
    model = mlflow.models.Model.load(str(folder))

    assert {"MLmodel", "model", "components", "onnx", "recipe.yaml", "README.md"} <= {
        path.name for path in folder.iterdir()
    }
    assert (folder / "recipe.yaml").read_text() == "name: words\n"
    assert model.signature is not None
    assert model.signature.outputs.input_names() == ["label", "score"]
    assert model.load_input_example(str(folder)) is not None
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "base"
    for part in (world.prepared.data_digest, told.better.gate["reason"], "| learning_rate | 0.01 |", "## Licence"):
        assert part in card


def test_the_training_run_holds_the_test_metrics_and_the_model(told: Told, world: World) -> None:
    run = world.tracker.client.get_run(told.run_ids[1])

    assert run.data.metrics == {f"test_{name}": value for name, value in told.better.metrics.items()}
    (output,) = run.outputs.model_outputs
    assert world.tracker.client.get_logged_model(output.model_id).status == "READY"


def test_promoting_the_champion_again_changes_nothing(told: Told, world: World) -> None:
    assert world.promote("strong", told.run_ids[1]) == told.better
    assert len(world.registry.versions("words")) == 3
    assert world.registry.by_alias("words", "champion").version == 2


def test_a_candidate_is_judged_anew_against_another_champion_and_not_registered_again(told: Told, world: World) -> None:
    weak = world.promote("weak", told.run_ids[0])

    assert (weak.version, weak.promoted) == (told.first.version, False)
    assert weak.gate["champion"] == told.better.gate["candidate"]
    assert len(world.registry.versions("words")) == 3
    assert world.registry.by_alias("words", "champion").version == 2
    assert not world.tracker.client.search_runs([world.tracker.experiment_id], "attributes.status = 'RUNNING'")


def test_a_champion_is_not_judged_on_what_it_was_trained_on(told: Told, world: World) -> None:
    moved = world.recipe.data.split.model_copy(update={"seed": 5})
    data = {"source": world.recipe.data.source, "split": moved.model_dump()}
    recipe, prepared = prepare_texts(world.folder / "moved", data=data)

    promotion = world.promote("strong", world.train(), prepared=prepared, data=recipe.data)

    gate = promotion.gate
    known = {
        text for split in ("train", "validation") for text in read_split(world.prepared, split)["text"].to_pylist()
    }
    assert gate["excluded_rows"] == sum(text in known for text in read_split(prepared, "test")["text"].to_pylist()) > 0
    assert gate["rows"] + gate["excluded_rows"] == prepared.num_rows["test"]
    assert gate["test_split_uses"] == 0


@pytest.mark.parametrize(
    "cut", ["create_model_version", "set_model_version_tag", "set_registered_model_alias", "finalize_logged_model"]
)
def test_a_promotion_that_was_cut_off_is_finished_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    name = f"cut-{cut.replace('_', '-')}"
    run_id = world.train()

    def killed(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"mlflow.MlflowClient.{cut}", killed)
        with pytest.raises(KeyboardInterrupt):
            world.promote("strong", run_id, name=name)
    promotion = world.promote("strong", run_id, name=name)

    assert (promotion.version, promotion.promoted) == (1, True)
    assert [version.version for version in world.registry.versions(name)] == [1]
    assert world.registry.by_alias(name, "champion").version == 1
    logged = world.tracker.client.search_logged_models([world.tracker.experiment_id], f"source_run_id = '{run_id}'")
    assert [model.status for model in logged] == ["READY"]
    assert world.promote("strong", run_id, name=name) == promotion


def test_a_failed_quick_check_keeps_the_alias(world: World) -> None:
    checks = [{"text": "w1 w2 w3 w4", "label": "down"}, {"text": "w1 w2", "label": "sideways"}]
    registry = world.recipe.registry.model_validate({"quick_checks": checks})

    promotion = world.promote("strong", world.train(), name="checked", registry=registry)

    assert not promotion.promoted
    reason = promotion.gate["reason"]
    assert "quick check 'w1 w2' before logging gave 'down', not 'sideways', which is not a label of this" in reason
    assert "after loading gave" in reason
    assert "after loading as MLflow pipeline gave" in reason
    assert "'w1 w2 w3 w4'" not in reason
    with pytest.raises(RegistryError):
        world.registry.by_alias("checked", "champion")


def test_a_candidate_is_judged_anew_when_the_gate_changes_and_registered_once(world: World) -> None:
    run_id = world.train()
    strict = world.recipe.registry.model_validate({"gate": {"minimum": 1.0}})

    refused = world.promote("strong", run_id, name="stricter", registry=strict)
    accepted = world.promote("strong", run_id, name="stricter")

    assert (refused.promoted, accepted.promoted) == (False, True)
    assert refused.version == accepted.version == 1
    assert world.registry.by_alias("stricter", "champion").version == 1


def test_a_champion_from_elsewhere_is_an_error_that_says_so(world: World) -> None:
    register_by_hand(world.tracker.uri, "foreign", world.folder / "foreign")
    world.registry.set_alias("foreign", "champion", 1)

    with pytest.raises(PromotionError, match=r"version 1 of 'foreign', the present champion, cannot be compared with"):
        world.promote("strong", world.train(), name="foreign")


def test_what_is_no_checkpoint_is_an_error(world: World, tmp_path: Path) -> None:
    missing = replace(world, checkpoints={"strong": tmp_path / "none"})

    with pytest.raises(TrainingError, match=r"none is not a checkpoint.*train again"):
        missing.promote("strong", world.train(), name="missing")


def test_the_exported_candidate_is_as_good_as_the_trained_one(
    world: World, told: Told, exports: dict[str, tuple[Path, ExportReport]]
) -> None:
    _, report = exports["strong"]

    assert report.fp32_accuracy == pytest.approx(history_of(world.checkpoints["strong"])[-1]["accuracy"])
    assert report.max_logit_difference < 1e-4


def test_a_model_can_be_promoted_as_candidate_and_as_champion_afterwards(world: World) -> None:
    registry = world.recipe.registry.model_validate({"gate": {"min_improvement": -0.5}})
    run_id = world.train()

    def promote(run_id: str, alias: str) -> Promotion:
        return world.promote("strong", run_id, name="tried", registry=registry, alias=alias)

    def aliases() -> list[int]:
        return [world.registry.by_alias("tried", alias).version for alias in ("champion", "candidate")]

    promote(world.train(), "champion")
    tried = promote(run_id, "candidate")
    assert (tried.version, tried.promoted, aliases()) == (2, True, [1, 2])
    assert promote(run_id, "champion") == tried
    assert aliases() == [2, 2]
    world.registry.rollback("tried", "champion")
    assert promote(run_id, "champion") == tried  # which is settled, and undoes no rollback
    assert aliases() == [1, 2]
