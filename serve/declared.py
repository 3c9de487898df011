"""The gateway, the standby and endpoints as applications of a Serve config file, for clusters that are declared.

KubeRay's RayService hands such a file to every cluster that it makes, so endpoints come back without anybody's doing.
The file names these functions (`import_path: serve.declared:endpoint`); the nodes have tuneserve installed, and
`TUNESERVE_STORAGE` and `MLFLOW_TRACKING_URI` in their environment. What `tuneserve deploy` does beside them stays, and
the file's own applications alone follow the file.
"""

import os

import ray.serve

from common.cluster import offers
from common.errors import InputError
from common.recipe_file import load_recipe
from common.settings import Settings
from serve.application import endpoint_spec
from serve.gateway_server import Listener
from serve.ray_serve import REPLICA_RESOURCE, gateway_application, model_application, standby_application


class GatewayArguments(Settings):
    """Where the gateway listens."""

    host: str = "127.0.0.1"
    """`0.0.0.0` for other machines and pods; they need an API key then."""
    port: int = 8000
    """The port that a Kubernetes service sends to."""


class StandbyArguments(Settings):
    """The standby has none."""


class EndpointArguments(Settings):
    """One endpoint; the application's name is the endpoint's, and is to be the recipe's."""

    recipe: str
    """A recipe's path on the nodes. Its model must be registered, at the latest when the first request comes."""
    overrides: tuple[str, ...] = ()
    """`key=value`, as on the command line."""


def gateway(arguments: GatewayArguments) -> ray.serve.Application:
    """The application `_gateway`."""
    return gateway_application(Listener(arguments.host, arguments.port), code_uri=None)


def standby(arguments: StandbyArguments) -> ray.serve.Application:  # noqa: ARG001 - Serve calls it with one
    """The application `_standby`."""
    return standby_application(code_uri=None)


def endpoint(arguments: EndpointArguments) -> ray.serve.Application:
    """The application of one endpoint. Raises `RecipeError`, and `InputError` for one that has none.

    The latter also when the environment lacks a place.
    """
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if recipe.serve.pool == "shared":
        raise InputError(
            f"{arguments.recipe}: with serve.pool: shared an endpoint has no application of its own; deploy it with "
            "`tuneserve deploy`, or declare it with the override serve.pool=own"
        )
    spec = endpoint_spec(
        recipe,
        tracking_uri=recipe.tracking.mlflow_uri or _from_environment("MLFLOW_TRACKING_URI"),
        storage=recipe.storage or _from_environment("TUNESERVE_STORAGE"),
        code_uri=None,
    )
    return model_application(spec, on_serving_machines=offers(REPLICA_RESOURCE))


def _from_environment(name: str) -> str:
    place = os.environ.get(name)
    if not place:
        raise InputError(f"{name} is not set in the environment of the cluster; set it there, for every node")
    return place
