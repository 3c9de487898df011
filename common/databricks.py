"""Databricks as tracking server: `databricks`, with host and token from the environment, or `databricks://PROFILE`.

Imports no MLflow, which takes a second. Runs go to the workspace; registered models to Unity Catalog, because the
workspace's own registry has no aliases (mlflow/store/model_registry/databricks_workspace_model_registry_rest_store.py).
"""

import os

from common.errors import TrackingError

DATABRICKS = "databricks"
_UNITY_CATALOG = "databricks-uc"
HOST, TOKEN = "DATABRICKS_HOST", "DATABRICKS_TOKEN"


def is_databricks(uri: str) -> bool:
    """Whether a tracking URI names a Databricks workspace; the address of its registry does not."""
    return uri == DATABRICKS or uri.startswith(f"{DATABRICKS}://")


def registry_of(uri: str) -> str:
    """The registry that belongs to a tracking URI: the same place, or a workspace's Unity Catalog."""
    return uri.replace(DATABRICKS, _UNITY_CATALOG, 1) if is_databricks(uri) else uri


def refuse_unusable_workspace(uri: str) -> None:
    """Raises `TrackingError` for a workspace without host or token in the environment, and for its registry alone."""
    if uri == _UNITY_CATALOG or uri.startswith(f"{_UNITY_CATALOG}://"):
        raise TrackingError(
            f"{uri} is a registry and takes no runs; set tracking.mlflow_uri={DATABRICKS}: models then go to Unity "
            "Catalog in any case"
        )
    missing = [name for name in (HOST, TOKEN) if not os.environ.get(name)]
    if uri == DATABRICKS and missing:
        raise TrackingError(
            f"tracking.mlflow_uri {DATABRICKS} needs {' and '.join(missing)} in the environment (not in the recipe, "
            f"which is stored with every run); set them, or name a profile of ~/.databrickscfg: {DATABRICKS}://PROFILE"
        )


def refuse_unusable_names(uri: str, experiment: str, model: str) -> None:
    """Raises `TrackingError` for names that a workspace does not take."""
    if not is_databricks(uri):
        return
    if not experiment.startswith("/"):
        raise TrackingError(
            f"on Databricks an experiment is a path of the workspace, and {experiment!r} is none; set "
            f"tracking.experiment=/Shared/{experiment}"
        )
    if len(model.split(".")) != 3:
        raise TrackingError(
            f"on Databricks a registered model has three names, and {model!r} has not; set "
            f"registry.model=CATALOG.SCHEMA.{model.replace('.', '_')}"
        )


def lock_name(uri: str, model: str) -> str:
    """The name of the registered model that locks another's aliases: on Databricks it is in the same schema."""
    if not is_databricks(uri):
        return f"tuneserve.lock.{model}"
    schema, _, name = model.rpartition(".")
    return f"{schema}.tuneserve_lock_{name}"
