"""What a sweep will take: expected with early stopping, and at most."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from common.recipe import Recipe
from common.recipe_file import load_recipe, shipped_recipes
from tests.training_data import write_base_model
from tune.allocation import Allocation
from tune.cost import Cost, disk_bytes, estimated_checkpoint_bytes, expected_epochs, sweep_cost
from tune.measure import Measurement
from tune.scheduler import make_scheduler, rungs

ROWS = {"train": 1000, "validation": 100}
TWO_AT_ONCE = Allocation(num_workers=1, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=2)


def recipe(*overrides: str) -> Recipe:
    return load_recipe(shipped_recipes()["quickstart"], overrides)


def measurement(batch_size: int = 16, train_s_per_row: float = 0.01) -> Measurement:
    return Measurement(
        batch_size, train_s_per_row, 0.01, checkpoint_s=1.0, start_s=2.0, running_bytes=300, finished_bytes=100
    )


def cost(
    *overrides: str, allocation: Allocation = TWO_AT_ONCE, measured: tuple[Measurement, ...] = (measurement(),)
) -> Cost:
    return sweep_cost(recipe(*overrides), measured, allocation, ROWS, prepared_bytes=50)


def simulated_epochs(num_trials: int, epochs: int, seed: int) -> int:
    """Epochs that Ray Tune's own ASHA lets trials of random quality train, one after the other."""
    scheduler = make_scheduler(recipe(), epochs)
    total = 0
    for number, accuracy in enumerate(np.random.default_rng(seed).random(num_trials)):
        trial = type("Trial", (), {"trial_id": str(number)})()
        scheduler.on_trial_add(None, trial)
        for epoch in range(1, epochs + 1):
            total += 1
            if scheduler.on_trial_result(None, trial, {"epoch": epoch, "accuracy": accuracy}) == TrialScheduler.STOP:
                break
    return total


@pytest.mark.parametrize(("num_trials", "epochs"), [(6, 4), (20, 3), (20, 9), (60, 20)])
def test_the_expected_epochs_are_those_that_asha_lets_train(num_trials: int, epochs: int) -> None:
    simulated = np.mean([simulated_epochs(num_trials, epochs, seed) for seed in range(60)])
    assert expected_epochs(num_trials, epochs, rungs(recipe(f"train.epochs={epochs}"))) == pytest.approx(
        simulated, rel=0.1
    )


@given(num_trials=st.integers(1, 200), epochs=st.integers(1, 100))
def test_early_stopping_only_saves_and_every_trial_trains_at_least_once(num_trials: int, epochs: int) -> None:
    in_full = expected_epochs(num_trials, epochs, ())
    assert in_full == num_trials * epochs
    assert num_trials <= expected_epochs(num_trials, epochs, rungs(recipe(f"train.epochs={epochs}"))) <= in_full + 1e-9


def test_the_bound_is_every_trial_in_full_at_the_slowest_batch_size() -> None:
    slow = measurement(64, train_s_per_row=0.02)
    found = cost("search.num_trials=5", "train.epochs=3", measured=(measurement(), slow))
    # 3 rounds of two at once; each 2 s to start and 3 epochs of 20 s training, 1 s validation, 1 s checkpoint.
    assert found.bound_s == pytest.approx(3 * (2 + 3 * 22))
    assert found.first_rung_s == pytest.approx(2 + 22)
    assert found.expected_s < found.bound_s
    assert found.device_hours_bound == pytest.approx(2 * found.bound_s / 3600)


def test_without_early_stopping_and_with_equal_batches_the_expectation_is_the_bound() -> None:
    found = cost("search.num_trials=4", "search.scheduler=fifo")
    assert found.expected_s == pytest.approx(found.bound_s)


def test_confirming_runs_are_part_of_the_cost() -> None:
    plain, confirmed = cost("search.num_trials=4"), cost("search.num_trials=4", "search.confirm={top: 2, seeds: 2}")
    trial_s = 2 + 4 * 12
    assert confirmed.bound_s == pytest.approx(plain.bound_s + 2 * trial_s)
    assert confirmed.expected_s == pytest.approx(plain.expected_s + 2 * trial_s)
    assert confirmed.disk_bytes == plain.disk_bytes + 4 * 100


def test_gpu_hours_count_the_share_that_workers_hold() -> None:
    found = cost(allocation=Allocation(num_workers=2, cpus_per_worker=4, gpus_per_worker=1.0, max_concurrent=3))
    assert found.device == "GPU"
    assert found.device_hours == pytest.approx(6 * found.expected_s / 3600)


def test_the_longest_searched_training_decides() -> None:
    assert (
        cost("search.space.epochs={int: [1, 8]}").bound_s
        > cost().bound_s
        == cost("search.space.epochs.fixed=4").bound_s
    )


def test_disk_holds_a_model_for_each_trial_and_the_running_ones_states() -> None:
    found = disk_bytes(recipe("search.num_trials=10"), 2, running_bytes=300, finished_bytes=100, prepared_bytes=50)
    assert found == 10 * 100 + 2 * 4 * 300 + 50


def test_checkpoints_are_reckoned_from_the_configuration_alone(tmp_path) -> None:
    folder = write_base_model(tmp_path / "model")
    stored = (folder / "model.safetensors").stat().st_size
    for weights in folder.glob("*.safetensors"):
        weights.write_bytes(b"")
    running, finished = estimated_checkpoint_bytes(recipe(f"model.base={folder}"), num_labels=3)
    assert finished == pytest.approx(stored, rel=0.2)  # the file has a header too
    assert running == 3 * finished
