"""The same fine-tuning twice, for benchmarks: by our train loop, and by Transformers' `Trainer` as tutorials use it."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.functional import pad

from common.dataset import load_splits
from common.metrics import accuracy, macro_f1
from common.recipe import Lora, Recipe, Train
from common.tokenised import PreparedData, local_base_model, local_folder, prepare
from tune.adapters import add_adapters
from tune.batches import TokenisedTexts
from tune.pretrained import load_base
from tune.quiet import quiet
from tune.train_loop import TrainLoopConfig, train

TUTORIAL_LENGTH = 128
TUTORIAL_SETTINGS = {"batch_size": 8, "learning_rate": 5e-5, "weight_decay": 0.0}
"""The batch that tutorials take, with `transformers.TrainingArguments`' defaults."""


@dataclass(frozen=True)
class Outcome:
    """One training."""

    train_s: float
    """Training alone, without validation."""
    accuracy: float
    """On the validation split after the last epoch."""
    best_accuracy: float
    """After the best epoch; for a tutorial, which has one model in the end, the same."""
    checkpoint_bytes: int = 0
    """Of ours: the size of the last checkpoint, which holds what is needed to use the model and not to train it on."""


@dataclass(frozen=True)
class Contest:
    """What both train on, and with how many CPU threads."""

    recipe: Recipe
    prepared: PreparedData
    num_threads: int

    @property
    def device(self) -> torch.device:
        """Where both train."""
        on_gpu = torch.cuda.is_available() and self.recipe.train.use_gpu is not False
        return torch.device("cuda" if on_gpu else "cpu")

    def texts(self, split: str) -> TokenisedTexts:
        """A split's tokens."""
        return TokenisedTexts.open(local_folder(self.prepared) / f"{split}.arrow")

    def model(self) -> transformers.PreTrainedModel:
        """The base model with a new head, in fp32."""
        return load_base(self.prepared)


@contextmanager
def contest(recipe: Recipe, rows: int | None, num_threads: int) -> Iterator[Contest]:
    """The recipe's data, prepared in a folder that vanishes; with `rows`, only so many of the training split."""
    splits = load_splits(recipe.data)
    if rows is not None:
        splits = replace(splits, train=splits.train.slice(0, rows))
    with tempfile.TemporaryDirectory(prefix="tuneserve-bench-") as storage:
        yield Contest(recipe, prepare(recipe, splits, storage), num_threads)


def ours(contest: Contest, seed: int, changes: Mapping[str, Any] | None = None, lora: Lora | None = None) -> Outcome:
    """Trains with the train loop, by the recipe's settings and `changes`; with `lora`, adapters."""
    settings = Train.model_validate(contest.recipe.train.model_dump() | dict(changes or {}) | {"seed": seed})
    config = TrainLoopConfig(
        data_folder=str(local_folder(contest.prepared)),
        base_model=local_base_model(contest.prepared),
        labels=contest.prepared.labels,
        pad_token_id=contest.prepared.pad_token_id,
        num_threads=contest.num_threads,
        lora=lora,
        new_head=contest.prepared.new_head,
        **settings.of_the_loop(),
    )
    history: list[dict[str, float]] = []
    sizes: list[int] = []

    def report(metrics: dict[str, float], checkpoint: Path | None) -> None:
        history.append(metrics)
        if checkpoint is not None:
            sizes.append(sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file()))

    train(config, report)
    rows = contest.prepared.num_rows["train"]
    accuracies = [epoch["accuracy"] for epoch in history]
    train_s = sum(rows / epoch["samples_per_s"] for epoch in history)
    return Outcome(train_s, accuracies[-1], max(accuracies), sizes[-1])


def tutorial(contest: Contest, seed: int, settings: Mapping[str, Any] | None = None) -> Outcome:
    """Trains with `Trainer`, for the recipe's epochs."""
    torch.set_num_threads(contest.num_threads)
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = tutorial_trainer(contest, folder, seed, settings)
        started = time.perf_counter()
        trainer.train()
        train_s = time.perf_counter() - started
        reached = float(trainer.evaluate()["eval_accuracy"])
    return Outcome(train_s, reached, reached)


def tutorial_trainer(
    contest: Contest,
    folder: str,
    seed: int,
    settings: Mapping[str, Any] | None = None,
    *,
    trained_on: Sequence[str] = ("train",),
    scored_on: str = "validation",
) -> transformers.Trainer:
    """A `Trainer` whose scheduler, optimiser and loss are its defaults; it writes below `folder`.

    With the recipe's `model.lora`, of a model with these adapters, by peft.
    """
    chosen = TUTORIAL_SETTINGS | dict(settings or {})
    pad_token_id = contest.prepared.pad_token_id
    lora = contest.recipe.model.lora

    def new_model() -> transformers.PreTrainedModel:
        return contest.model() if lora is None else add_adapters(contest.model(), lora)

    trainer = transformers.Trainer(
        model_init=new_model,
        args=transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=contest.recipe.train.epochs,
            per_device_train_batch_size=int(chosen["batch_size"]),
            learning_rate=float(chosen["learning_rate"]),
            weight_decay=float(chosen["weight_decay"]),
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=contest.device.type == "cpu",
        ),
        train_dataset=torch.utils.data.ConcatDataset(
            [PaddedTexts(contest.texts(split), pad_token_id) for split in trained_on]
        ),
        eval_dataset=PaddedTexts(contest.texts(scored_on), pad_token_id),
        compute_metrics=_scores,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


class PaddedTexts(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """A split as tutorials make it: each text padded to 128 tokens."""

    def __init__(self, texts: TokenisedTexts, pad_token_id: int) -> None:
        self._texts = texts
        self._pad_token_id = pad_token_id

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        batch = self._texts.batch(np.array([row]), self._pad_token_id)
        token_ids = batch.input_ids[0, :TUTORIAL_LENGTH]
        padding = (0, TUTORIAL_LENGTH - len(token_ids))
        return {
            "input_ids": pad(token_ids, padding, value=self._pad_token_id),
            "attention_mask": pad(torch.ones_like(token_ids), padding),
            "labels": batch.labels[0],
        }


def _scores(predictions: transformers.EvalPrediction) -> dict[str, float]:
    logits = np.asarray(predictions.predictions)
    predicted, actual = logits.argmax(axis=1), predictions.label_ids
    return {"accuracy": accuracy(predicted, actual), "macro_f1": macro_f1(predicted, actual, logits.shape[1])}
