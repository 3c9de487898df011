"""A worker alone; what several give together is held by `test_train_loop.py`."""

import pytest
import torch

from tune.data_parallel import Worker


def test_a_process_without_others_trains_the_model_itself_and_sums_nothing() -> None:
    worker = Worker.current(use_gpu=False)
    model = torch.nn.Linear(1, 1)

    assert worker == Worker(0, 1, torch.device("cpu"))
    assert worker.replicate(model) is model
    assert worker.sum([1, 2.5]).tolist() == [1, 2.5]


def test_a_gpu_that_is_not_there_is_refused_when_asked_for_and_else_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(ValueError, match="torch finds no GPU on this machine; set it to false or null"):
        Worker.current(use_gpu=True)
    assert Worker.current(use_gpu=None).device == torch.device("cpu")
