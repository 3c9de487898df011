from pathlib import Path

import pyarrow.fs
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

from common.classifier import Classifier
from common.errors import RegistryError, TrackingError
from common.model_settings import weights_beside
from common.registry import AliasTarget, ModelRegistry, ModelVersion
from common.tracking import sqlite_uri
from tests.tiny_model import build_engine, register


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def registry(folder: Path) -> ModelRegistry:
    return ModelRegistry(sqlite_uri(str(folder)))


@pytest.fixture
def name(request: pytest.FixtureRequest, registry: ModelRegistry, folder: Path) -> str:
    """A registered model of three versions, of its own for each test."""
    model = request.node.name.replace("_", "-")
    for version in (1, 2, 3):
        register(registry.tracking_uri, model, folder / model / str(version))
    return model


def test_an_alias_leads_to_a_version_and_its_files(registry: ModelRegistry, name: str, folder: Path) -> None:
    registry.set_alias(name, "champion", 2)

    version = registry.by_alias(name, "champion")

    assert (version.name, version.version, version.uri) == (name, 2, str(folder / name / "2"))
    assert registry.by_version(name, 2) == version
    assert [found.version for found in registry.versions(name)] == [1, 2, 3]


def test_a_versions_card_is_its_readme_and_a_version_may_have_none(
    registry: ModelRegistry, name: str, folder: Path
) -> None:
    (folder / name / "2" / "README.md").write_text("# größer", encoding="utf-8")

    assert registry.card(registry.by_version(name, 2)) == "# größer"
    assert registry.card(registry.by_version(name, 1)) is None


def test_what_is_not_registered_says_how_to_register_it(registry: ModelRegistry, name: str) -> None:
    with pytest.raises(RegistryError, match=r"'nothing' carries the alias 'champion'.*run `tuneserve promote`"):
        registry.by_alias("nothing", "champion")
    with pytest.raises(RegistryError, match="carries the alias 'other'"):
        registry.by_alias(name, "other")
    with pytest.raises(RegistryError, match="has no version 9"):
        registry.by_version(name, 9)
    with pytest.raises(RegistryError, match="cannot move to version 9"):
        registry.set_alias(name, "champion", 9)
    assert registry.versions("nothing") == []


def test_a_registry_in_trouble_is_not_taken_for_an_empty_one(
    registry: ModelRegistry, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise MlflowException("the database is locked", INTERNAL_ERROR)

    monkeypatch.setattr("mlflow.MlflowClient.get_model_version_by_alias", fail)

    for ask in (registry.by_alias, registry.rollback, lambda *alias: registry.set_alias(*alias, 1)):
        with pytest.raises(TrackingError, match=r"refuses: .*the database is locked"):
            ask(name, "champion")


def test_asking_for_a_model_makes_no_database(tmp_path: Path) -> None:
    registry = ModelRegistry(sqlite_uri(str(tmp_path)))

    with pytest.raises(
        RegistryError, match=r"nothing is registered: there is no database .*mlflow\.db; run `tuneserve"
    ):
        registry.by_alias("headlines", "champion")
    assert list(tmp_path.iterdir()) == []


def test_rollback_goes_where_the_alias_was_before_not_to_the_number_below(registry: ModelRegistry, name: str) -> None:
    registry.set_alias(name, "champion", 1)
    registry.set_alias(name, "champion", 3)  # version 2 did not pass the gate

    assert registry.rollback(name, "champion") == (3, 1)
    assert registry.by_alias(name, "champion").version == 1
    with pytest.raises(RegistryError, match="version 1 is the first"):
        registry.rollback(name, "champion")


def test_rollback_never_returns_to_what_was_rolled_back(registry: ModelRegistry, name: str) -> None:
    registry.set_alias(name, "champion", 1)
    registry.set_alias(name, "champion", 2)
    registry.rollback(name, "champion")
    registry.set_alias(name, "champion", 3)

    assert registry.rollback(name, "champion") == (3, 1)


def test_setting_the_alias_again_forgets_nothing(registry: ModelRegistry, name: str) -> None:
    registry.set_alias(name, "champion", 1)
    registry.set_alias(name, "champion", 2)
    registry.set_alias(name, "champion", 2)

    assert registry.rollback(name, "champion") == (2, 1)


def test_aliases_are_rolled_back_apart(registry: ModelRegistry, name: str) -> None:
    for alias, before in (("champion", 1), ("canary", 2)):
        registry.set_alias(name, alias, before)
        registry.set_alias(name, alias, 3)

    assert registry.rollback(name, "canary") == (3, 2)
    assert registry.rollback(name, "champion") == (3, 1)


def test_tags_are_read_back(registry: ModelRegistry, name: str) -> None:
    registry.set_tags(name, 1, {"gate": "passed"})
    registry.set_tags(name, 1, {"gate": "not passed"})

    assert registry.by_version(name, 1).tags == {"gate": "not passed"}


def test_artifacts_are_downloaded_whole_or_by_folder(registry: ModelRegistry, name: str, tmp_path: Path) -> None:
    version = registry.by_version(name, 1)

    onnx = registry.download(version, "onnx", tmp_path / "part")
    everything = registry.download(version, "", tmp_path / "all")

    assert onnx == tmp_path / "part" / "onnx"
    assert Classifier.load(onnx).classify(["good"])[0].label == "good"
    assert (everything / "onnx" / "model.onnx").is_file()
    with pytest.raises(RegistryError, match="cannot read absent of"):
        registry.download(version, "absent", tmp_path / "none")


def test_files_that_pyarrow_opens_are_fetched_where_they_are(
    registry: ModelRegistry, name: str, folder: Path, tmp_path: Path
) -> None:
    uri = registry.fetchable_uri(registry.by_version(name, 1), str(tmp_path))

    filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    assert uri == str(folder / name / "1" / "onnx")
    assert filesystem.get_file_info(f"{path}/model.onnx").is_file
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[ModelVersion, list[str]]:
    """A version whose artifacts only MLflow can read, and the downloads that were made."""
    downloads = []

    def download(self: ModelRegistry, version: ModelVersion, subfolder: str, destination: Path) -> Path:
        downloads.append(subfolder)
        return build_engine(destination / subfolder)

    monkeypatch.setattr(ModelRegistry, "download", download)
    return ModelVersion("headlines", 7, "mlflow-artifacts:/1/models/m-1/artifacts", "run"), downloads


def test_files_that_only_mlflow_reads_are_copied_to_storage_once(
    registry: ModelRegistry, proxied: tuple[ModelVersion, list[str]], tmp_path: Path
) -> None:
    version, downloads = proxied

    uris = [registry.fetchable_uri(version, str(tmp_path)) for _ in range(2)]

    assert uris == [f"{tmp_path}/served/headlines/7/onnx"] * 2
    assert downloads == ["onnx"]
    assert Classifier.load(Path(uris[0])).classify(["bad"])[0].label == "bad"


def test_a_copy_that_was_cut_off_is_made_again(
    registry: ModelRegistry, proxied: tuple[ModelVersion, list[str]], tmp_path: Path
) -> None:
    version, downloads = proxied
    (tmp_path / "served/headlines/7/onnx").mkdir(parents=True)
    (tmp_path / "served/headlines/7/onnx/model.onnx").write_bytes(b"half")

    uri = registry.fetchable_uri(version, str(tmp_path))

    assert downloads == ["onnx"]
    assert Classifier.load(Path(uri)).labels == ("bad", "good")


def test_one_search_tells_what_the_aliases_of_many_models_point_to(
    registry: ModelRegistry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"aliased {number:03} " + "x" * 80 for number in range(40)] + ["it's", 'the "one"', 'it\'s "both"']
    for name in names:
        registry._client.create_registered_model(name)
        registry._client.create_model_version(name, str(folder))
        registry.set_alias(name, "champion", 1)
    registry.set_alias(names[0], "other", 1)
    searches = []
    search = registry._client.search_registered_models

    def count(filter_string: str, **options: object) -> object:
        searches.append(filter_string)
        return search(filter_string, **options)

    monkeypatch.setattr(registry._client, "search_registered_models", count)

    found = registry.alias_targets([*names, "nothing"])

    assert found.keys() == {(names[0], "other"), *((name, "champion") for name in names[:-1])}
    assert {target.version for target in found.values()} == {1}
    assert len(searches) == 2
    assert max(map(len, searches)) < 2200
    assert registry.alias_targets([]) == {}


def test_a_model_made_anew_is_told_from_the_one_before(registry: ModelRegistry, folder: Path) -> None:
    targets: list[AliasTarget] = []
    for _ in range(2):
        register(registry.tracking_uri, "renewed", folder / "renewed")
        registry.set_alias("renewed", "champion", 1)
        targets += registry.alias_targets(["renewed"]).values()
        registry._client.delete_registered_model("renewed")

    assert [target.version for target in targets] == [1, 1]
    assert targets[0].model_made_at < targets[1].model_made_at


def test_the_weights_of_a_gpu_replica_are_copied_beside_the_export(
    registry: ModelRegistry, proxied: tuple[ModelVersion, list[str]], tmp_path: Path
) -> None:
    version, downloads = proxied

    uri = registry.fetchable_uri(version, str(tmp_path), with_weights=True)

    assert sorted(downloads) == ["model", "onnx"]
    assert uri == f"{tmp_path}/served/headlines/7/onnx"
    assert Path(weights_beside(uri), "COMPLETE").is_file()
