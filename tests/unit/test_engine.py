import asyncio
import math
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import fsspec
import pytest

from common.classifier import Classifier, Prediction
from common.errors import ModelError
from serve.engine import NUM_KEPT, Model, PooledModel, fetch
from serve.engines import Engines
from tests.tiny_model import build_adapter, build_engine


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def engine_folder(tmp_path: Path) -> Path:
    return build_engine(tmp_path / "engine")


def test_a_batch_is_classified_by_the_version_it_names(tmp_path: Path) -> None:
    first = build_engine(tmp_path / "first")
    second = build_engine(tmp_path / "second", swapped=True)

    async def both() -> list[str]:
        model = Model()
        answers = [await model.classify(str(first), 1, ["good"]), await model.classify(str(second), 2, ["good"])]
        return [answer[0]["label"] for answer in answers]

    assert asyncio.run(both()) == ["good", "bad"]


def test_an_answer_has_a_score_for_every_label(engine_folder: Path) -> None:
    (answer,) = asyncio.run(Model().classify(str(engine_folder), 1, ["good bad good"]))

    assert set(answer["scores"]) == {"good", "bad"}
    assert answer["score"] == answer["scores"][answer["label"]] == max(answer["scores"].values())


def test_answers_are_in_the_order_of_the_texts(engine_folder: Path) -> None:
    texts = ["bad bad bad bad", "good", "bad", "good good good"]

    answers = asyncio.run(Model().classify(str(engine_folder), 1, texts))

    assert [answer["label"] for answer in answers] == ["bad", "good", "bad", "good"]


def test_a_text_that_the_model_fails_on_has_no_score_and_its_neighbours_have_theirs(
    engine_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify = Classifier.classify

    def fragile(classifier: Classifier, texts: Sequence[str]) -> list[Prediction]:
        if "poison" in texts:
            raise RuntimeError("indices element out of data bounds")
        return classify(classifier, texts)

    monkeypatch.setattr(Classifier, "classify", fragile)
    texts = ["good", "bad", "poison", "good", "poison", "bad", "good"]

    answers = asyncio.run(Model().classify(str(engine_folder), 1, texts))

    assert [answer["label"] for answer in answers if not math.isnan(answer["score"])] == [
        text for text in texts if text != "poison"
    ]
    assert [number for number, answer in enumerate(answers) if math.isnan(answer["score"])] == [2, 4]
    assert set(answers[2]) == set(answers[0])


def test_a_batch_is_tokenised_and_classified_off_the_event_loop(
    engine_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    classify = Classifier.classify

    def watched(classifier: Classifier, texts: Sequence[str]) -> list[Prediction]:
        threads.append(threading.get_ident())
        return classify(classifier, texts)

    monkeypatch.setattr(Classifier, "classify", watched)
    asyncio.run(Model().classify(str(engine_folder), 1, ["good"]))

    assert threads
    assert threading.get_ident() not in threads


def test_a_replica_of_the_pool_holds_as_many_models_as_fit(tmp_path: Path) -> None:
    folders = [build_engine(tmp_path / str(number), swapped=number == 1) for number in range(3)]
    num_bytes = sum(file.stat().st_size for file in folders[0].iterdir())

    async def loads(room_for: int) -> float:
        model = PooledModel()
        model.reconfigure({"memory_gb": (room_for + 0.5) * num_bytes / 1e9})
        for folder in folders * 2:
            (answer,) = await model.classify(str(folder), 1, ["good"])
            assert answer["label"] == ("bad" if folder == folders[1] else "good")
        return len(model._engines._engines)

    assert [asyncio.run(loads(room_for)) for room_for in (1, 2, 3)] == [1, 2, 3]


def test_a_replica_of_the_pool_holds_the_base_model_of_many_adapters_once(tmp_path: Path) -> None:
    folders = [build_adapter(tmp_path / str(number), swapped=number == 1) for number in range(3)]
    base = (folders[0] / "model.onnx").stat().st_size
    own = sum(file.stat().st_size for file in folders[0].iterdir()) - base

    async def held(room_for: int) -> int:
        model = PooledModel()
        model.reconfigure({"memory_gb": (base + (room_for + 0.5) * own) / 1e9})
        for folder in folders * 2:
            (answer,) = await model.classify(str(folder), 1, ["good"])
            assert answer["label"] == ("bad" if folder == folders[1] else "good")
        return len(model._engines._engines)

    assert [asyncio.run(held(room_for)) for room_for in (1, 2, 3)] == [1, 2, 3]


def test_callers_that_come_together_share_one_load(engine_folder: Path) -> None:
    loads: list[str] = []

    def load(uri: str) -> Classifier:
        loads.append(uri)
        return Classifier.load(Path(uri))

    async def together() -> list[Classifier]:
        engines = Engines(load, NUM_KEPT)
        return await asyncio.gather(*(engines.get(str(engine_folder), 1) for _ in range(5)))

    assert len(set(map(id, asyncio.run(together())))) == 1
    assert loads == [str(engine_folder)]


def test_the_two_versions_used_last_stay_loaded(engine_folder: Path) -> None:
    loads: list[str] = []

    def load(uri: str) -> Classifier:
        loads.append(uri)
        return Classifier.load(engine_folder)

    async def rounds() -> None:
        engines = Engines(load, NUM_KEPT)
        for uri in ("a", "b", "a", "c", "a", "b"):
            await engines.get(uri, 1)

    asyncio.run(rounds())
    assert loads == ["a", "b", "c", "b"]


def test_a_version_that_could_not_be_loaded_is_tried_again(engine_folder: Path) -> None:
    async def twice() -> list[str]:
        model = Model()
        later = engine_folder.parent / "later"
        with pytest.raises(ModelError, match=r"version 3 cannot be loaded: .*later is not on this node"):
            await model.classify(str(later), 3, ["good"])
        build_engine(later)
        return [answer["label"] for answer in await model.classify(str(later), 3, ["good"])]

    assert asyncio.run(twice()) == ["good"]


def test_a_caller_that_goes_away_does_not_stop_the_load_for_others(engine_folder: Path) -> None:
    async def one_leaves() -> Classifier:
        engines = Engines(lambda uri: Classifier.load(Path(uri)), NUM_KEPT)
        leaving = asyncio.create_task(engines.get(str(engine_folder), 1))
        staying = asyncio.create_task(engines.get(str(engine_folder), 1))
        await asyncio.sleep(0)
        leaving.cancel()
        return await staying

    assert asyncio.run(one_leaves()).labels == ("bad", "good")


def test_a_replica_that_works_is_not_idle(engine_folder: Path) -> None:
    async def idle_during_and_after() -> tuple[float, float]:
        model = Model()
        batch = asyncio.create_task(model.classify(str(engine_folder), 1, ["good"]))
        await asyncio.sleep(0)
        during = model.record_autoscaling_stats()["idle_s"]
        await batch
        await asyncio.sleep(0.001)
        return during, model.record_autoscaling_stats()["idle_s"]

    during, after = asyncio.run(idle_during_and_after())
    assert during == 0
    assert after > 0


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_folder_is_used_where_it_is(engine_folder: Path, tmp_path: Path, prefix: str) -> None:
    assert fetch(f"{prefix}{engine_folder}") == engine_folder
    assert not (tmp_path / "cache").exists()


def test_a_remote_folder_is_fetched_once(engine_folder: Path) -> None:
    remote = fsspec.filesystem("memory")
    remote.put(str(engine_folder), "memory://bucket/engine", recursive=True)

    folder = fetch("memory://bucket/engine")
    remote.rm("memory://bucket", recursive=True)

    assert fetch("memory://bucket/engine") == folder
    assert Classifier.load(folder).labels == ("bad", "good")


def test_a_remote_folder_that_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="memory://nowhere/engine cannot be fetched"):
        fetch("memory://nowhere/engine")
    assert list((tmp_path / "cache" / "engines").iterdir()) == []


def test_a_replica_imports_neither_torch_nor_transformers_nor_mlflow() -> None:
    program = "import sys, serve.engine; print(*{'torch', 'transformers', 'mlflow', 'datasets'} & set(sys.modules))"

    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert imported.split() == []
