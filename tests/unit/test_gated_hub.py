"""What the Hub shows only to some: refused with the way in, and read with the token of the environment."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from common.base_model import hub_folder, load_tokenizer
from common.dataset import load_splits
from common.errors import DataError, ModelError
from common.recipe import Data
from common.tokenised import local_base_model, prepare
from tests.candidates import prepare_texts
from tests.fake_hub import TOKEN, FakeHub, fake_hub
from tests.hub_cache import COMMIT

NEWS = Data(source="org/news", text_column="title", label_column="sentiment")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    _, prepared = prepare_texts(tmp_path / "made")
    model = {file.name: file.read_bytes() for file in Path(prepared.base_model).iterdir()}
    rows = "".join(f"title {row},{row % 2}\n" for row in range(90))
    with fake_hub({"org/model": model, "datasets/org/news": {"train.csv": f"title,sentiment\n{rows}".encode()}}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        hub_folder.cache_clear()
        yield hub


@pytest.mark.usefixtures("hub")
def test_what_is_gated_is_refused_with_the_way_in() -> None:
    with pytest.raises(ModelError, match=r"model.base 'org/model'.*set HF_TOKEN to a token that may read"):
        load_tokenizer("org/model", 16)
    with pytest.raises(DataError, match=r"data set 'org/news'.*set HF_TOKEN to a token that may read"):
        load_splits(NEWS)


def test_the_token_of_the_environment_opens_it_and_afterwards_the_hub_is_not_asked_for_the_model(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    splits = load_splits(NEWS)
    assert splits.labels == ("0", "1")

    recipe, _ = prepare_texts(tmp_path / "other")
    model = recipe.model.model_copy(update={"base": "org/model"})
    prepared = prepare(recipe.model_copy(update={"model": model}), splits, str(tmp_path / "storage"))
    assert prepared.base_revision == COMMIT
    assert (Path(local_base_model(prepared)) / "model.safetensors").is_file()
    hub.asked.clear()
    local_base_model(prepared)
    assert hub.asked == []
