"""Fine-tuning of a text classifier, with no Ray in it.

The same `train` runs in a Ray Train worker, in a Tune trial, in a test, and alone on a GPU machine. It is data-parallel
when `torch.distributed` is initialised. The optimiser sees the same global batches whatever the number of workers, and
all randomness follows from the seed, the epoch and the rank, so a run that resumes from a checkpoint goes on as if it
had not been interrupted.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel

from common.metrics import accuracy_of, confusion_matrix, macro_f1_of
from tune.batches import Rows, TokenisedTexts, epoch_batches, share, sorted_batches
from tune.checkpoint import STATE_FILE, seal
from tune.data_parallel import Worker
from tune.dropout import use_fast_dropout
from tune.precision import Precision, compute_dtype
from tune.pretrained import load_trainable, save_trainable
from tune.step_losses import StepLosses
from tune.vocabulary import all_rows, keep_used_rows

if TYPE_CHECKING:
    from common.recipe import Lora

METRICS = ("train_loss", "loss", "accuracy", "macro_f1", "tokens_per_s", "samples_per_s", "seconds")
"""What `train` reports each epoch, beside `epoch`: losses are mean cross-entropy, `loss`, `accuracy` and `macro_f1`
are of the validation split, rates count training alone, `seconds` is training and validation since the first epoch.
With `logging_steps` there are entries for single steps as well (`tune.step_losses`)."""

Report = Callable[[dict[str, float], Path | None], None]
"""Takes an epoch's metrics and, from rank 0, a checkpoint folder that is gone when the call returns."""

MAX_GRADIENT_NORM = 1.0
PREDICTION_BATCH = 64
STEPS_BETWEEN_CHECKS = 50
"""Looking at the loss makes the host wait for a GPU, so it is looked at rarely."""

HISTORY_FILE = "history.json"


@dataclass(frozen=True)
class TrainLoopConfig:
    """One fine-tuning, on this machine."""

    data_folder: str
    """Prepared data: train.arrow, validation.arrow and the tokenizer's files in tokenizer/."""
    base_model: str
    """What `from_pretrained` takes here."""
    labels: tuple[str, ...]
    """The label of each index in the data."""
    pad_token_id: int
    """What batches are padded with."""
    epochs: int
    """Passes over the training split."""
    batch_size: int
    """Global batch: texts per optimiser step, over all workers."""
    learning_rate: float
    """Peak learning rate."""
    weight_decay: float
    """Decoupled weight decay of the matrices."""
    warmup_ratio: float
    """Share of the steps over which the learning rate rises."""
    precision: Precision
    """`auto` takes the fastest that the hardware has natively."""
    seed: int
    """Of the new head, dropout and the order of batches."""
    num_threads: int | None
    """CPU threads; None leaves torch's setting."""
    use_gpu: bool | None = None
    """Train on a GPU; None: if there is one."""
    lora: "Lora | None" = None
    """Train adapters of this shape and the head; None: the whole model."""
    logging_steps: int = 0
    """Report the training loss every so many steps, with their epoch; 0: of whole epochs alone."""
    new_head: bool = False
    """Do not take over a head that the base model has."""


def train(config: TrainLoopConfig, report: Report, resume_from: Path | None = None) -> None:
    """Fine-tunes and reports after each epoch.

    A checkpoint is a folder with the model, its tokenizer and `history.json`; all but the last epoch's also hold what
    resuming needs. AdamW (https://arxiv.org/abs/1711.05101), linear warm-up, then linear decay to zero.

    Args:
        config: What to train.
        report: Called once an epoch on every rank; rank 0 alone gives it a checkpoint folder.
        resume_from: A checkpoint of the same run; its epochs are not repeated.

    Raises:
        FloatingPointError: the loss is no longer finite.
        ValueError: the checkpoint cannot be continued, or the hardware lacks what the configuration asks for.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    run = _Run(config, resume_from)
    for epoch in range(len(run.history), config.epochs):
        run.advance(epoch)
        with ExitStack() as stack:
            folder = None
            if run.worker.rank == 0:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="checkpoint-")))
                run.save(folder)
            report({**run.history[-1], **run.of_steps}, folder)


def history_of(checkpoint: Path) -> list[dict[str, float]]:
    """The metrics of all epochs up to that of a checkpoint folder."""
    history: list[dict[str, float]] = json.loads((checkpoint / HISTORY_FILE).read_text())
    return history


def predict_logits(
    model: PreTrainedModel, texts: TokenisedTexts, rows: Rows, worker: Worker, dtype: torch.dtype, pad_token_id: int
) -> npt.NDArray[np.float32]:
    """The model's logits for the given rows, in their order, shape (len(rows), labels)."""
    logits = np.empty((len(rows), len(model.config.id2label or ())), dtype=np.float32)
    model.train(False)
    with torch.inference_mode(), torch.autocast(worker.device.type, dtype, enabled=dtype != torch.float32):
        for places in sorted_batches(texts.lengths[rows], PREDICTION_BATCH):
            batch = texts.batch(rows[places], pad_token_id).to(worker.device)
            output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            logits[places] = output.logits.float().cpu().numpy()
    return logits


def learning_rate_factor(step: int, num_steps: int, warmup_ratio: float) -> float:
    """What the peak learning rate is multiplied with at a step (from 0): rises linearly to 1, then falls towards 0."""
    num_warmup = round(warmup_ratio * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    return (num_steps - step) / (num_steps - num_warmup)


class _Run:
    """The state of one fine-tuning on one worker."""

    def __init__(self, config: TrainLoopConfig, checkpoint: Path | None) -> None:
        self.config = config
        self.worker = Worker.current(config.use_gpu)
        self.dtype = compute_dtype(config.precision, self.worker.device)
        self.training = TokenisedTexts.open(Path(config.data_folder) / "train.arrow")
        self.validation = TokenisedTexts.open(Path(config.data_folder) / "validation.arrow")
        torch.manual_seed(config.seed)  # a new head
        self.model = load_trainable(
            config.base_model,
            config.labels,
            config.pad_token_id,
            lora=config.lora,
            checkpoint=checkpoint,
            new_head=config.new_head,
        )
        keep_used_rows(self.model, self._used_tokens())
        if self.worker.device.type == "cpu":
            use_fast_dropout(self.model)
        self.model.to(self.worker.device)  # type: ignore[arg-type]
        self.replica = self.worker.replicate(self.model)
        matrices = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in self.model.parameters() if parameter.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},  # biases and normalisation
            ],
            lr=config.learning_rate,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(self.worker.device.type, enabled=self.dtype == torch.float16)
        self.history: list[dict[str, float]] = []
        self.of_steps: dict[str, float] = {}
        if checkpoint is not None:
            self._restore(checkpoint)

    def advance(self, epoch: int) -> None:
        """Trains for one epoch (from 0), validates, and adds the metrics to the history."""
        start = time.perf_counter()
        train_loss = self._train(epoch)
        train_s = time.perf_counter() - start
        metrics = self._validate()
        before = self.history[-1]["seconds"] if self.history else 0.0
        self.history.append(
            {
                "epoch": epoch + 1,
                "train_loss": train_loss,
                **metrics,
                "tokens_per_s": float(self.training.lengths.sum()) / train_s,
                "samples_per_s": len(self.training) / train_s,
                "seconds": before + time.perf_counter() - start,
            }
        )

    def save(self, folder: Path) -> None:
        """Writes a checkpoint; after the last epoch nothing is left to resume."""
        with all_rows(self.model):
            save_trainable(self.model, folder)
        shutil.copytree(Path(self.config.data_folder) / "tokenizer", folder, dirs_exist_ok=True)
        (folder / HISTORY_FILE).write_text(json.dumps(self.history))
        if len(self.history) < self.config.epochs:
            state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
            torch.save(state, folder / STATE_FILE)
        seal(folder)

    def _used_tokens(self) -> torch.Tensor:
        """(V,) whether each token occurs in a text or pads one."""
        vocabulary_size = len(self.model.get_input_embeddings().weight)  # type: ignore[arg-type]
        is_used = self.training.uses(vocabulary_size) | self.validation.uses(vocabulary_size)
        is_used[self.config.pad_token_id] = True
        return torch.from_numpy(is_used)

    def _restore(self, checkpoint: Path) -> None:
        self.history = history_of(checkpoint)
        if len(self.history) >= self.config.epochs:
            return
        if not (checkpoint / STATE_FILE).exists():
            raise ValueError(
                f"{checkpoint} ended a run of {len(self.history)} epochs and cannot be continued to "
                f"{self.config.epochs}; start a new run"
            )
        state = torch.load(checkpoint / STATE_FILE, map_location=self.worker.device, weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def _train(self, epoch: int) -> float:
        """Returns the mean training loss over the epoch; that of its steps is in `of_steps`."""
        config = self.config
        batches = epoch_batches(self.training.lengths, config.batch_size, config.seed, epoch)
        num_steps = len(batches) * config.epochs
        dropout_seed = np.random.SeedSequence([config.seed, epoch, self.worker.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(dropout_seed[0]))
        self.model.train()
        total = torch.zeros((), dtype=torch.float64, device=self.worker.device)
        total_loss, num_texts = 0.0, 0
        losses = StepLosses(config.logging_steps)
        for index, rows in enumerate(batches):
            step = epoch * len(batches) + index
            factor = learning_rate_factor(step, num_steps, config.warmup_ratio)
            total += self._step(rows, config.learning_rate * factor)
            num_texts += len(rows)
            is_wanted = losses.is_due(step + 1)
            if is_wanted or (index + 1) % STEPS_BETWEEN_CHECKS == 0 or index + 1 == len(batches):
                total_loss = float(self.worker.sum(total.item()))
                if not np.isfinite(total_loss):
                    raise FloatingPointError(
                        f"the training loss is {total_loss} in epoch {epoch + 1} with learning rate "
                        f"{config.learning_rate:g}; lower train.learning_rate"
                    )
                if is_wanted:
                    losses.add(step + 1, total_loss, num_texts)
        self.of_steps = losses.entries
        return total_loss / len(self.training)

    def _step(self, rows: Rows, learning_rate: float) -> torch.Tensor:
        """One optimiser step on a global batch; returns this worker's part of the batch's summed loss."""
        worker = self.worker
        mine = share(rows, worker.rank, worker.world_size)
        weight = len(mine) / len(rows)
        # A worker without rows computes a row that does not count: all must take part in summing the gradients.
        batch = self.training.batch(mine if len(mine) else rows[:1], self.config.pad_token_id).to(worker.device)
        with torch.autocast(worker.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.replica(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        loss = cross_entropy(logits.float(), batch.labels) * weight
        torch.autograd.backward(self.scaler.scale(loss * worker.world_size))  # the gradients become means over workers
        self.scaler.unscale_(self.optimizer)
        clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss.detach() * len(rows)

    def _validate(self) -> dict[str, float]:
        """Each worker predicts its share of the validation split; all get the metrics of the whole."""
        rows = share(np.arange(len(self.validation)), self.worker.rank, self.worker.world_size)
        logits = predict_logits(
            self.model, self.validation, rows, self.worker, self.dtype, self.config.pad_token_id
        ).astype(np.float64)
        labels, num_labels = self.validation.labels[rows], len(self.config.labels)
        losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(rows)), labels]
        matrix = confusion_matrix(logits.argmax(axis=1), labels, num_labels)
        sums = self.worker.sum([*matrix.ravel(), losses.sum()])
        matrix = sums[:-1].reshape(num_labels, num_labels).astype(np.int64)
        return {
            "loss": float(sums[-1] / len(self.validation)),
            "accuracy": float(accuracy_of(matrix)),
            "macro_f1": float(macro_f1_of(matrix)),
        }
