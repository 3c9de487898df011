"""From the winner of a search to a registered version, and to the champion if it earns that.

A promotion that was cut off is finished by running it again: a version is recognised by its training run, and says in
its tags what was decided.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from common.classifier import Classifier
from common.errors import RegistryError
from common.model_settings import ONNX_FOLDER
from common.recipe import Recipe
from common.registry import ModelRegistry, ModelVersion
from common.tokenised import PreparedData, read_split
from common.tracking import Tracker
from tune.evaluation import (
    TRAINED_ON_FOLDER,
    answer,
    load_classifier,
    quick_check_failures,
    rival,
    write_trained_on,
)
from tune.export import ExportReport, export
from tune.gate import Verdict, judge
from tune.model_card import model_card
from tune.pretrained import local_checkpoint, plain_model, split_model
from tune.registration import load_pipeline, register, write_model

logger = logging.getLogger(__name__)

_TEST_DIGEST = "tuneserve.test_digest"
_DECISION = "tuneserve.promotion"
_SETTLED = "tuneserve.settled"
"""The aliases that the decision has been carried out for: done again, it would undo a rollback."""


@dataclass(frozen=True)
class Promotion:
    """What became of a candidate: registered as `version`, and whether the alias moved to it.

    `metrics` are those of the test split. `gate` holds metric, candidate, champion, difference, interval [low, high],
    confidence, rows, excluded_rows, test_split_uses and reason.
    """

    model: str
    version: int
    promoted: bool
    metrics: dict[str, float]
    gate: dict[str, Any]


def promote(
    recipe: Recipe,
    prepared: PreparedData,
    checkpoint: str,
    tracker: Tracker,
    run_id: str,
    recipe_yaml: str,
    storage: str,
    alias: str,
) -> Promotion:
    """Exports, judges and registers a checkpoint; moves `alias` to it when the gate passes.

    It is judged against the champion, which the recipe's alias points to, whatever `alias` is. `run_id` is the training
    run that made the checkpoint; the test metrics are added to it. Doing the same again returns the same and registers
    nothing twice. When another promotion has made another champion meanwhile, the candidate is judged anew, against
    that one: the alias only moves away from the version that the candidate was compared with.

    Raises:
        PromotionError: when the checkpoint cannot be exported or registered, or the champion cannot be scored.
        TrainingError: when there is no checkpoint.
    """
    registry = ModelRegistry(tracker.uri)
    settings = _settings_digest(recipe, prepared)
    while True:
        registered = next((at for at in registry.versions(recipe.registered_model) if at.run_id == run_id), None)
        champion = _champion(registry, recipe)
        decided = _decision(registered, settings, champion)
        settled = set(registered.tags.get(_SETTLED, "").split()) if registered is not None and decided else set()
        if decided is None:
            # Judged anew, against nobody, when it is the champion.
            opponent = None if champion is not None and champion.run_id == run_id else champion
            with TemporaryDirectory(prefix="tuneserve-") as folder:
                attempt = _Attempt(recipe, prepared, tracker, registry, run_id, Path(folder))
                decided = attempt.decide(checkpoint, recipe_yaml, opponent, registered)
            registry.set_tags(decided.model, decided.version, _decision_tags(decided, settings, opponent))
        elif alias in settled:
            return decided
        if not decided.promoted or _move(registry, decided, recipe, alias, champion, storage):
            registry.set_tags(decided.model, decided.version, {_SETTLED: " ".join(sorted({*settled, alias}))})
            return decided
        logger.warning("%s has another champion meanwhile: version %s is judged anew", decided.model, decided.version)


def _move(
    registry: ModelRegistry, decided: Promotion, recipe: Recipe, alias: str, champion: ModelVersion | None, storage: str
) -> bool:
    """Moves `alias` to a candidate that passed; not when the champion is another than the one it was judged against."""
    # Where MLflow alone can read the artifacts, replicas find a copy before the alias sends them there.
    registry.fetchable_uri(registry.by_version(decided.model, decided.version), storage)
    judged_against = recipe.registry.alias, champion.version if champion else None
    return registry.set_alias(decided.model, alias, decided.version, only_while=judged_against)


@dataclass(frozen=True)
class _Attempt:
    """One candidate, with its files in a temporary folder."""

    recipe: Recipe
    prepared: PreparedData
    tracker: Tracker
    registry: ModelRegistry
    run_id: str
    work: Path

    def decide(
        self, checkpoint: str, recipe_yaml: str, champion: ModelVersion | None, registered: ModelVersion | None
    ) -> Promotion:
        """Registers the candidate, unless an earlier attempt did, and says whether it is to be the champion."""
        trained = local_checkpoint(checkpoint, self.work / "checkpoint")
        local = plain_model(trained, self.prepared, self.work / "merged")
        validation = read_split(self.prepared, "validation")
        exported = export(
            local,
            self.work / ONNX_FOLDER,
            max_length=self.prepared.max_length,
            texts=validation["text"].to_pylist(),
            labels=[self.prepared.labels[index] for index in validation["label"].to_pylist()],
            split=split_model(trained, self.prepared) if self.recipe.serve.pool == "shared" else None,
        )
        candidate = load_classifier(self.work / ONNX_FOLDER)
        metrics, verdict = self._judge(candidate, champion)
        if registered is None:
            self._write_artifacts(local, recipe_yaml, metrics, verdict, exported)
            version = register(
                self.tracker,
                self.run_id,
                self.work / "model",
                name=self.recipe.registered_model,
                description=verdict.reason,
                metrics=metrics,
                tags={"tuneserve.data_digest": self.prepared.data_digest, "tuneserve.precision": exported.precision},
            )
        else:
            version = registered.version
        failures = self._failures_once_registered(version, candidate)
        if failures:
            verdict = replace(verdict, passed=False, reason="; ".join([verdict.reason, *failures]))
        gate = json.loads(json.dumps(asdict(verdict)))
        promoted = gate.pop("passed")
        return Promotion(self.recipe.registered_model, version, promoted, metrics, gate)

    def _judge(self, candidate: Classifier, champion: ModelVersion | None) -> tuple[dict[str, float], Verdict]:
        """The test metrics and what the gate says; the use of the test split is on record before it is looked at."""
        self.tracker.set_tags(self.run_id, {_TEST_DIGEST: self.prepared.test_digest})
        users = set(self.tracker.find_runs({_TEST_DIGEST: self.prepared.test_digest}, everywhere=True))
        opponent = rival(self.registry, champion, self.work / "champion") if champion else None
        opponent_labels = opponent.classifier.labels if opponent else ()
        answers = answer(candidate, read_split(self.prepared, "test"), self.prepared.labels, opponent_labels)
        verdict = judge(
            self.recipe.registry.gate,
            answers.predicted,
            answers.actual,
            len(answers.labels),
            rivalry=opponent.rivalry(answers) if opponent else None,
            quick_check_failures=self._quick_checks(candidate, _by_classifier(candidate), "before logging"),
            test_split_uses=len(users - {self.run_id}),
        )
        return answers.metrics(), verdict

    def _write_artifacts(
        self, checkpoint: Path, recipe_yaml: str, metrics: dict[str, float], verdict: Verdict, exported: ExportReport
    ) -> None:
        """Everything that is registered, in one folder: `model` below the temporary one."""
        folder = self.work / "model"
        validation, train = (read_split(self.prepared, split)["text"] for split in ("validation", "train"))
        card = model_card(
            self.prepared,
            name=self.recipe.registered_model,
            alias=self.recipe.registry.alias,
            metrics=metrics,
            verdict=verdict,
            exported=exported,
            params=self.tracker.client.get_run(self.run_id).data.params,
        )
        examples = [check.text for check in self.recipe.registry.quick_checks] or validation[:1].to_pylist()
        write_model(folder, checkpoint, max_length=self.prepared.max_length, examples=examples, card=card)
        shutil.copytree(self.work / ONNX_FOLDER, folder / ONNX_FOLDER)
        write_trained_on(folder / TRAINED_ON_FOLDER, [*train.to_pylist(), *validation.to_pylist()])
        (folder / "recipe.yaml").write_text(recipe_yaml, encoding="utf-8")

    def _failures_once_registered(self, version: int, candidate: Classifier) -> list[str]:
        """What is wrong with the version as the registry gives it back; the quick checks run once more."""
        found = self.registry.by_version(self.recipe.registered_model, version)
        folder = self.registry.download(found, "", self.work / "registered")
        reloaded = load_classifier(folder / ONNX_FOLDER)
        text = read_split(self.prepared, "validation")["text"][:1].to_pylist()
        failures = []
        if not np.allclose(reloaded.logits(text), candidate.logits(text), atol=1e-4):
            failures.append("the registered ONNX model does not answer as it did before logging")
        failures += self._quick_checks(candidate, _by_classifier(reloaded), "after loading")
        return failures + self._quick_checks(candidate, load_pipeline(folder), "after loading as MLflow pipeline")

    def _quick_checks(self, candidate: Classifier, classify: Callable[[list[str]], list[str]], when: str) -> list[str]:
        return quick_check_failures(self.recipe.registry.quick_checks, candidate.labels, classify, when)


def _by_classifier(classifier: Classifier) -> Callable[[list[str]], list[str]]:
    return lambda texts: [prediction.label for prediction in classifier.classify(texts)]


def _champion(registry: ModelRegistry, recipe: Recipe) -> ModelVersion | None:
    """The version under the alias."""
    try:
        return registry.by_alias(recipe.registered_model, recipe.registry.alias)
    except RegistryError:
        return None


def _settings_digest(recipe: Recipe, prepared: PreparedData) -> str:
    """Changes when the same candidate is to be judged anew."""
    judged_by = [recipe.registry.model_dump_json(), prepared.test_digest]
    return hashlib.sha256("\n".join(judged_by).encode()).hexdigest()


def _decision_tags(promotion: Promotion, settings: str, champion: ModelVersion | None) -> dict[str, str]:
    """Written one by one: first that nothing is settled, then the decision in one piece."""
    judged = {"settings": settings, "champion": champion and champion.version, "promotion": asdict(promotion)}
    return {
        _SETTLED: "",
        _DECISION: json.dumps(judged),
        "tuneserve.gate": "passed" if promotion.promoted else "not passed",
    }


def _decision(registered: ModelVersion | None, settings: str, champion: ModelVersion | None) -> Promotion | None:
    """What an earlier attempt decided under the same settings, against the same champion or as the champion."""
    if registered is None or _DECISION not in registered.tags:
        return None
    decision = json.loads(registered.tags[_DECISION])
    present = champion and champion.version
    if decision["settings"] != settings or present not in (decision["champion"], registered.version):
        return None
    return Promotion(**decision["promotion"])
