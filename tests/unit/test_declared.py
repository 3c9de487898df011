"""Applications of a Serve config file are those that the command line deploys."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as build
from ray.serve._private.utils import import_attr

from common.cluster import PROJECT_ROOT
from common.errors import InputError, RecipeError
from common.recipe_file import load_recipe
from serve import declared
from serve.application import endpoint_spec
from serve.endpoints import EndpointSpec
from serve.gateway_server import Listener
from serve.ray_serve import GATEWAY_DEPLOYMENT, REPLICA_RESOURCE

SMS = str(PROJECT_ROOT / "recipes" / "sms_spam.yaml")
MANIFEST = PROJECT_ROOT / "docs" / "clusters" / "kubernetes" / "rayservice.yaml"


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESERVE_STORAGE", "s3://bucket/tuneserve")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setattr(declared, "offers", lambda resource: resource == REPLICA_RESOURCE)


def built(import_path: str, arguments: dict[str, Any]) -> Any:
    """The deployment, as Serve's controller makes it from an entry of the file."""
    return build(import_attr(import_path), arguments)._bound_deployment


def declared_applications() -> list[Any]:
    config = yaml.safe_load(yaml.safe_load(MANIFEST.read_text("utf-8"))["spec"]["serveConfigV2"])
    return list(config["applications"])


def test_every_application_of_the_manifest_can_be_built_on_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for application in declared_applications():
        arguments = dict(application["args"])
        if "recipe" in arguments:  # where the image has the project
            arguments["recipe"] = arguments["recipe"].replace("/home/ray/tuneserve", str(PROJECT_ROOT))
            assert load_recipe(arguments["recipe"], arguments["overrides"]).name == application["name"]
        assert built(application["import_path"], arguments)


def test_the_gateway_listens_where_the_file_says_and_on_loopback_unless_it_does() -> None:
    listeners = [built("serve.declared:gateway", arguments) for arguments in ({}, {"host": "0.0.0.0", "port": 80})]
    assert {listener.name for listener in listeners} == {GATEWAY_DEPLOYMENT}
    assert [Listener.from_user_config(listener.user_config) for listener in listeners] == [
        Listener("127.0.0.1", 8000),
        Listener("0.0.0.0", 80),
    ]


def test_an_endpoint_on_the_shared_pool_cannot_be_declared() -> None:
    with pytest.raises(InputError, match="has no application of its own; deploy it with `tuneserve deploy`"):
        declared.endpoint(declared.EndpointArguments(recipe=SMS, overrides=("serve.pool=shared",)))


def test_an_endpoint_is_the_one_that_deploy_would_make_of_the_recipe() -> None:
    deployment = built("serve.declared:endpoint", {"recipe": SMS, "overrides": ["serve.max_replicas=8"]})
    recipe = load_recipe(SMS, ["serve.max_replicas=8"])
    expected = endpoint_spec(recipe, tracking_uri="http://mlflow:5000", storage="s3://bucket/tuneserve", code_uri=None)
    assert EndpointSpec.from_user_config(deployment.user_config) == expected
    assert expected.max_replicas == 8
    assert deployment.ray_actor_options["resources"] == {REPLICA_RESOURCE: 1.0}
    assert deployment.ray_actor_options["runtime_env"] == {"working_dir": None}


@pytest.mark.parametrize("name", ["TUNESERVE_STORAGE", "MLFLOW_TRACKING_URI"])
def test_an_environment_without_a_place_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(InputError, match=f"{name} is not set in the environment of the cluster"):
        built("serve.declared:endpoint", {"recipe": SMS})


def test_a_wrong_recipe_and_unknown_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        built("serve.declared:endpoint", {"recipe": str(tmp_path / "none.yaml")})
    for path, wrong in (("gateway", {"prot": 80}), ("standby", {"replicas": 2}), ("endpoint", {"recipes": SMS})):
        with pytest.raises(ValueError, match="Extra inputs are not permitted"):
            built(f"serve.declared:{path}", wrong)
