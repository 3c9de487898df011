"""The training loss of single steps: measured within an epoch, reported with it.

An epoch's report is a flat dictionary of floats, which every channel between a worker and the driver carries; each
measured step is one entry of it. What comes with its epoch is as exact as that: of an epoch that was cut off nothing is
reported, and training it again reports it anew.
"""

from collections.abc import Mapping

STEP_LOSS = "train_loss_step"
"""MLflow's name for it: the mean loss a text since the point before, at most since the epoch began."""

_ENTRY = "train_loss at step "


class StepLosses:
    """Those of one epoch, one every `every` optimiser steps since the training began; 0: none."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._loss, self._num_texts = 0.0, 0
        self.entries: dict[str, float] = {}
        """What the epoch's report gets."""

    def is_due(self, step: int) -> bool:
        """Whether the loss after a step (from 1) is wanted: finding it out makes the host wait for a GPU."""
        return self._every > 0 and step % self._every == 0

    def add(self, step: int, loss: float, num_texts: int) -> None:
        """Takes the summed loss of the texts that the epoch has seen until now."""
        self.entries[f"{_ENTRY}{step}"] = (loss - self._loss) / (num_texts - self._num_texts)
        self._loss, self._num_texts = loss, num_texts


def step_losses(report: Mapping[str, float]) -> dict[int, float]:
    """By step, the losses in an epoch's report."""
    return {int(name.removeprefix(_ENTRY)): loss for name, loss in report.items() if name.startswith(_ENTRY)}


def of_the_epoch(report: Mapping[str, float]) -> dict[str, float]:
    """An epoch's report without those of its steps."""
    return {name: value for name, value in report.items() if not name.startswith(_ENTRY)}
