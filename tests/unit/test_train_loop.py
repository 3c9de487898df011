import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.training_data import LABELS, loop_settings, write_base_model, write_data
from tune.train_loop import METRICS, STATE_FILE, TrainLoopConfig, history_of, learning_rate_factor, train

GOLDEN_FILE = Path(__file__).parents[1] / "assets" / "golden_losses.json"
CURVE = ("train_loss", "loss", "accuracy", "macro_f1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    torch.manual_seed(1)
    write_data(folder / "data")
    write_base_model(folder / "plain")
    write_base_model(folder / "dropout", dropout=0.1)
    return folder


def curve(history):
    return [[metrics[name] for name in CURVE] for metrics in history]


def run(config: TrainLoopConfig, keep: Path | None = None, resume_from: Path | None = None):
    """Trains; `keep` gets each epoch's checkpoint."""
    history = []

    def report(metrics, checkpoint):
        history.append(metrics)
        if keep is not None:
            shutil.copytree(checkpoint, keep / str(int(metrics["epoch"])))

    train(config, report, resume_from)
    return history


def test_each_epoch_reports_all_metrics_and_training_learns(folder):
    history = run(loop_settings(folder / "data", folder / "plain"))
    assert [metrics["epoch"] for metrics in history] == [1, 2, 3]
    assert all(set(metrics) == {"epoch", *METRICS} for metrics in history)
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    assert history[0]["seconds"] < history[1]["seconds"] < history[2]["seconds"]


def test_the_losses_are_those_on_file(folder):
    """Guards against changes of the mathematics; after an intended one, write the new values here by hand."""
    golden = json.loads(GOLDEN_FILE.read_text())
    torch.manual_seed(3)
    base_model = write_base_model(folder / "golden")
    history = run(loop_settings(folder / "data", base_model))
    for name in ("train_loss", "loss"):
        assert [metrics[name] for metrics in history] == pytest.approx(golden[name], rel=1e-3)


def test_the_same_seed_gives_the_same_model_again_in_the_same_process(folder, tmp_path):
    first = run(loop_settings(folder / "data", folder / "dropout", epochs=2), tmp_path / "first")
    other_seed = run(loop_settings(folder / "data", folder / "dropout", epochs=2, seed=6))
    again = run(loop_settings(folder / "data", folder / "dropout", epochs=2), tmp_path / "again")
    assert curve(first) == curve(again) != curve(other_seed)
    weights, weights_again = (load_file(tmp_path / name / "2" / "model.safetensors") for name in ("first", "again"))
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_a_resumed_run_ends_as_if_it_had_not_been_interrupted(folder, tmp_path):
    config = loop_settings(folder / "data", folder / "dropout")
    whole = run(config, tmp_path / "whole")
    rest = run(config, tmp_path / "rest", resume_from=tmp_path / "whole" / "1")
    assert [metrics["epoch"] for metrics in rest] == [2, 3]
    assert curve(rest) == curve(whole)[1:]
    assert curve(history_of(tmp_path / "rest" / "3")) == curve(whole)
    weights, weights_resumed = (load_file(tmp_path / name / "3" / "model.safetensors") for name in ("whole", "rest"))
    assert all(torch.equal(weights[name], weights_resumed[name]) for name in weights)


def test_a_finished_run_has_nothing_to_resume(folder, tmp_path):
    run(loop_settings(folder / "data", folder / "plain", epochs=2), tmp_path)
    assert (tmp_path / "1" / STATE_FILE).exists()
    assert not (tmp_path / "2" / STATE_FILE).exists()
    assert run(loop_settings(folder / "data", folder / "plain", epochs=2), resume_from=tmp_path / "2") == []
    with pytest.raises(ValueError, match="2 epochs and cannot be continued to 3"):
        run(loop_settings(folder / "data", folder / "plain", epochs=3), resume_from=tmp_path / "2")


def test_a_checkpoint_is_a_model_with_string_labels_and_its_tokenizer(folder, tmp_path):
    run(loop_settings(folder / "data", folder / "plain", epochs=1), tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "1")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "1")
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {label: index for index, label in enumerate(LABELS)}
    assert model.config.pad_token_id == 0
    assert tokenizer("w0 w3")["input_ids"] == [4, 7]


def _train_as_rank(rank, world_size, folder, configs):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world_size
    )
    histories = []
    for config in configs:
        history = []
        train(config, lambda metrics, folder: history.append(metrics | {"has_folder": folder is not None}))  # noqa: B023
        histories.append(history)
    (folder / f"rank{rank}.json").write_text(json.dumps(histories))
    torch.distributed.destroy_process_group()


def test_two_workers_give_the_losses_of_one(folder, tmp_path):
    """Of 70 rows the last batch has 6; or 7, which two workers cannot share evenly; or 1, fewer than workers."""
    configs = [loop_settings(folder / "data", folder / "plain", batch_size=batch_size) for batch_size in (16, 9, 23)]
    torch.multiprocessing.spawn(_train_as_rank, (2, tmp_path, configs), nprocs=2)
    alone = [run(config) for config in configs]
    for rank in (0, 1):
        for together, expected in zip(json.loads((tmp_path / f"rank{rank}.json").read_text()), alone, strict=True):
            assert [metrics["has_folder"] for metrics in together] == [rank == 0] * 3
            assert curve(together) == [pytest.approx(metrics, rel=1e-4) for metrics in curve(expected)]


def test_a_diverging_run_says_where_and_with_what(folder):
    data = write_data(folder / "many", num_train=400)
    with pytest.raises(FloatingPointError, match=r"epoch 1 with learning rate 1e\+30; lower train.learning_rate"):
        run(loop_settings(data, folder / "plain", learning_rate=1e30))


def test_a_head_for_the_same_labels_is_kept_by_name_and_else_there_is_a_new_one(folder):
    settings = {"epochs": 1, "learning_rate": 1e-12}
    torch.manual_seed(2)
    trained = run(loop_settings(folder / "data", write_base_model(folder / "known", labels=LABELS), **settings))
    for name, labels in {"other": ("a", "b", "c"), "fewer": ("a", "b"), "same": LABELS}.items():
        torch.manual_seed(2)
        base = write_base_model(folder / name, labels=labels)
        other = run(loop_settings(folder / "data", base, new_head=True, **settings))
        assert other[0]["loss"] != pytest.approx(trained[0]["loss"], rel=1e-3)
    swapped = folder / "swapped"  # the same classifier with its outputs in another order
    model = AutoModelForSequenceClassification.from_pretrained(folder / "known")
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[[2, 0, 1]].clone())
        model.classifier.bias.copy_(model.classifier.bias[[2, 0, 1]].clone())
    model.config.id2label = {0: LABELS[2], 1: LABELS[0], 2: LABELS[1]}
    model.config.label2id = {LABELS[2]: 0, LABELS[0]: 1, LABELS[1]: 2}
    model.save_pretrained(swapped)
    assert curve(run(loop_settings(folder / "data", swapped, **settings)))[0] == pytest.approx(
        curve(trained)[0], rel=1e-6
    )


def test_a_model_stored_in_half_precision_is_trained_in_full(folder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(folder / "plain").to(torch.bfloat16)
    model.save_pretrained(folder / "half")
    run(loop_settings(folder / "data", folder / "half", epochs=1), tmp_path)
    weights = load_file(tmp_path / "1" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_bf16_stays_close_to_fp32(folder):
    fp32 = run(loop_settings(folder / "data", folder / "plain", epochs=1))
    bf16 = run(loop_settings(folder / "data", folder / "plain", epochs=1, precision="bf16"))
    assert curve(bf16) != curve(fp32)
    assert bf16[0]["loss"] == pytest.approx(fp32[0]["loss"], rel=0.05)


def test_what_the_hardware_lacks_is_said(folder):
    with pytest.raises(ValueError, match="fp16 trains on GPUs only"):
        run(loop_settings(folder / "data", folder / "plain", precision="fp16", use_gpu=False))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch finds no GPU"):
            run(loop_settings(folder / "data", folder / "plain", use_gpu=True))


def test_the_learning_rate_rises_then_falls_and_every_step_learns():
    factors = [learning_rate_factor(step, 10, 0.3) for step in range(10)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])
    assert learning_rate_factor(0, 10, 0.0) == 1
    assert learning_rate_factor(9, 10, 1.0) == 1


def test_the_optimiser_sees_decay_on_matrices_only(folder, tmp_path):
    run(loop_settings(folder / "data", folder / "plain", epochs=2, weight_decay=0.5), tmp_path)
    state = torch.load(tmp_path / "1" / STATE_FILE, weights_only=True)["optimizer"]
    matrices, vectors = state["param_groups"]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.5, 0.0)
    assert all(state["state"][index]["exp_avg"].ndim == 1 for index in vectors["params"])
