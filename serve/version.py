"""Versions of installed packages, told without importing them."""

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """tuneserve's; 0 where its code came as an archive."""
    return _version("tuneserve")


def mlflow_version() -> str:
    """MLflow's; importing it would take the gateway seconds."""
    return _version("mlflow")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "0"
