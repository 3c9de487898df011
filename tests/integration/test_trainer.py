import os
import signal
import time
from queue import Queue
from threading import Thread

import pytest
import ray
import ray.util.state
import torch
from safetensors.torch import load_file

from common.errors import ClusterError, TrainingError
from common.recipe import Lora, Train
from tests.training_data import prepared_data, write_base_model, write_data
from tune.checkpoint import damage
from tune.step_losses import of_the_epoch, step_losses
from tune.train_loop import train
from tune.trainer import TrainResult, checkpoint_uri, fit, loop_config

CURVE = ("train_loss", "loss", "accuracy", "macro_f1")

SETTINGS = {"batch_size": 23, "learning_rate": 2e-2, "precision": "fp32", "seed": 5}
"""Of 70 rows the last batch has one: fewer than workers."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainer")
    torch.manual_seed(1)
    return prepared_data(write_data(folder / "data"), write_base_model(folder / "base"))


def curve(history):
    return [[metrics[name] for name in CURVE] for metrics in history]


def expected_curve(prepared, settings):
    """What one uninterrupted process gives."""
    history = []
    train(loop_config(prepared, settings, num_threads=1), lambda metrics, folder: history.append(metrics))
    return [pytest.approx(metrics, rel=1e-4) for metrics in curve(history)]


def run(prepared, settings, storage, on_report=lambda metrics: None, metric="loss") -> TrainResult:
    return fit(
        prepared,
        settings,
        metric=metric,
        run_name="run",
        storage_path=str(storage),
        cpus_per_worker=1,
        on_report=on_report,
        use_gpu=False,
    )


def alive_workers():
    filters = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
    here = ray.get_runtime_context().gcs_address  # or other clusters on this machine would be asked
    return [actor.pid for actor in ray.util.state.list_actors(here, filters=filters)]


def test_two_workers_train_like_one_and_keep_the_two_best_and_the_last_checkpoint(cluster, prepared, tmp_path):
    settings = Train(**SETTINGS, epochs=4, num_workers=2, logging_steps=3)
    reports = []
    result = run(prepared, settings, tmp_path, reports.append, metric="accuracy")
    assert curve(result.history) == expected_curve(prepared, settings)
    assert [of_the_epoch(report) for report in reports] == list(result.history)
    assert [list(step_losses(report)) for report in reports] == [[3], [6], [9, 12], [15]]
    best = max(result.history, key=lambda metrics: (metrics["accuracy"], metrics["epoch"]))
    assert result.metrics == best
    assert result.checkpoint == checkpoint_uri(str(tmp_path), "run", best["epoch"])
    assert load_file(f"{result.checkpoint}/model.safetensors")
    kept = {folder.name for folder in (tmp_path / "run").glob("epoch-*")}
    assert {f"epoch-{int(best['epoch']):04d}", "epoch-0004"} <= kept
    assert len(kept) <= 3


def test_an_interrupted_run_continues_and_a_finished_one_returns_at_once(cluster, prepared, tmp_path):
    settings = Train(**SETTINGS, epochs=12)

    def interrupt(metrics):
        if metrics["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(prepared, settings, tmp_path, interrupt)
    deadline = time.monotonic() + 30
    while alive_workers():
        assert time.monotonic() < deadline, "the interrupted run still has workers"
    reports = []
    result = run(prepared, settings, tmp_path, reports.append)
    assert 2 < reports[0]["epoch"] <= 12
    assert curve(result.history) == expected_curve(prepared, settings)
    assert run(prepared, settings, tmp_path, lambda metrics: pytest.fail("trained again")) == result


@pytest.mark.slow
def test_a_run_whose_last_checkpoint_was_cut_short_goes_on_from_the_one_before(cluster, prepared, tmp_path):
    settings = Train(**SETTINGS, epochs=3)
    whole = run(prepared, settings, tmp_path)
    weights = tmp_path / "run" / "epoch-0003" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    reports = []
    result = run(prepared, settings, tmp_path, reports.append)
    assert [metrics["epoch"] for metrics in reports] == [3]
    assert curve(result.history) == [pytest.approx(metrics, rel=1e-4) for metrics in curve(whole.history)]
    assert damage(str(tmp_path / "run" / "epoch-0003")) is None


@pytest.mark.slow
def test_two_workers_train_the_same_adapters_as_one(cluster, prepared, tmp_path):
    lora = Lora(r=2)
    alone = []
    settings = Train(**SETTINGS, epochs=2, num_workers=2)
    train(loop_config(prepared, settings, 1, lora), lambda metrics, folder: alone.append(metrics))
    result = fit(
        prepared,
        settings,
        metric="loss",
        run_name="run",
        storage_path=str(tmp_path),
        cpus_per_worker=1,
        on_report=lambda metrics: None,
        use_gpu=False,
        lora=lora,
    )
    assert curve(result.history) == [pytest.approx(metrics, rel=1e-4) for metrics in curve(alone)]


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_training_goes_on_from_the_checkpoint(cluster, prepared, tmp_path):
    settings = Train(**SETTINGS, epochs=15)
    epochs, found = [], Queue()

    def find_worker():
        deadline = time.monotonic() + 120
        while not (pids := alive_workers()):
            assert time.monotonic() < deadline, "no worker was started"
        found.put(pids[0])

    def kill_once(metrics):
        epochs.append(metrics["epoch"])
        if len(epochs) == 1:
            os.kill(found.get(timeout=30), signal.SIGKILL)

    Thread(target=find_worker, daemon=True).start()
    result = run(prepared, settings, tmp_path, kill_once)
    assert epochs == list(range(1, 16))
    assert curve(result.history) == expected_curve(prepared, settings)


@pytest.mark.slow
def test_elastic_training_trains_like_one_worker(cluster, prepared, tmp_path):
    settings = Train(**SETTINGS, epochs=2, num_workers={"min": 1, "max": 2})
    result = run(prepared, settings, tmp_path)
    assert curve(result.history) == expected_curve(prepared, settings)


@pytest.mark.slow
def test_a_diverging_training_is_not_tried_again(cluster, prepared, tmp_path):
    settings = Train(**SETTINGS | {"learning_rate": 1e30}, epochs=3)
    with pytest.raises(TrainingError, match=r"learning rate 1e\+30; lower train.learning_rate"):
        run(prepared, settings, tmp_path)


def test_more_workers_than_fit_are_refused_before_anything_starts(cluster, prepared, tmp_path):
    with pytest.raises(ClusterError, match=r"num_workers 5 with 1 CPU a worker .* room for 4 .* Lower"):
        run(prepared, Train(**SETTINGS, num_workers=5), tmp_path)
    with pytest.raises(ClusterError, match=r"num_workers 1 with 1 CPU and 1 GPU a worker .* room for 0"):
        fit(
            prepared,
            Train(**SETTINGS),
            metric="loss",
            run_name="run",
            storage_path=str(tmp_path),
            cpus_per_worker=1,
            on_report=lambda metrics: None,
            use_gpu=True,
        )
    assert not list(tmp_path.iterdir())
