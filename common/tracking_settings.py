"""Where runs are recorded, as a recipe says it: the section `tracking`."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from common.settings import Settings


class Wandb(Settings):
    """Weights & Biases, beside MLflow: needs the extra `wandb`, and online the key of an account in WANDB_API_KEY."""

    project: Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")]
    """The project that gets the runs; made when it is new."""
    entity: str | None = None
    """The user or team that has the project; when not given, the account's default."""
    mode: Literal["online", "offline"] = "online"
    """`offline`: runs are written to `wandb` in the storage alone, for `wandb sync`."""


class Tracking(Settings):
    """Where runs are recorded."""

    mlflow_uri: str | None = None
    """MLflow tracking URI; when not given, MLFLOW_TRACKING_URI, the running cluster's, or SQLite under `storage`."""
    experiment: str | None = None
    """MLflow experiment; when not given, the recipe's name."""
    system_metrics: bool = False
    """Record CPU, memory, disk, network and GPUs of the machine that drives the job, every 10 s, with the run of the
    sweep or the training."""
    wandb: Wandb | None = None
    """Record trainings and trials in Weights & Biases as well."""

    @field_validator("mlflow_uri")
    @classmethod
    def _without_password(cls, uri: str | None) -> str | None:
        if uri and urlsplit(uri).password:
            raise ValueError(
                "holds a password, and recipes are stored with every run; set MLFLOW_TRACKING_PASSWORD (a server) or "
                "MLFLOW_TRACKING_URI (a database) in the environment instead"
            )
        return uri
