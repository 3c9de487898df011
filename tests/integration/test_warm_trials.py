"""A process that has trained before trains as a new one would: to the last bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.test_sweep import run
from tests.small_job import small_job
from tune.allocation import Allocation
from tune.study import TrialRecord

pytestmark = pytest.mark.usefixtures("nothing_is_left")

CURVE = ("train_loss", "loss", "accuracy", "macro_f1")


def curve(trial: TrialRecord) -> list[tuple[float, ...]]:
    return [tuple(epoch[name] for name in CURVE) for epoch in trial.history]


@pytest.mark.slow
def test_a_warm_trial_repeats_a_cold_one_bit_for_bit(tmp_path: Path) -> None:
    job = small_job(
        tmp_path,
        "search.space={learning_rate: {choice: [5.0e-4, 3.0e-3]}}",
        "search.num_trials=4",
        "search.scheduler=fifo",
        "train.epochs=3",
    )
    weights: dict[int, dict[str, Any]] = {}

    def keep_weights(record: TrialRecord) -> None:
        """Of the epoch before the last: once a trial has ended, the best one's checkpoint alone stays."""
        if len(record.history) == 3 and record.number not in weights:
            weights[record.number] = load_file(f"{record.latest_checkpoint}/model.safetensors")

    result = run(
        job,
        keep_weights,
        allocation=Allocation(num_workers=1, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1),
        points=[{"learning_rate": value} for value in (5e-4, 3e-3, 5e-4, 5e-4)],
    )
    cold, other, *repeated = sorted(result.trials, key=lambda trial: trial.number)
    assert sorted(weights) == [0, 1, 2, 3]
    assert curve(other) != curve(cold)
    for trial in repeated:
        assert trial.params == cold.params
        assert curve(trial) == curve(cold)
        assert all(torch.equal(tensor, weights[0][name]) for name, tensor in weights[trial.number].items())
