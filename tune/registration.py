"""Making a complete MLflow transformers model out of a checkpoint and registering it as a new version."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import huggingface_hub
import mlflow.transformers
import transformers
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from common.errors import PromotionError
from common.tracking import Tracker
from tune import tuneserve_pyfunc
from tune.model_card import LICENCE_NOTE
from tune.quiet import quiet

_REQUIREMENTS = ("mlflow", "torch", "transformers", "safetensors")
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string")]),
    outputs=Schema([ColSpec("string", "label"), ColSpec("double", "score")]),
    # Without defaults: MLflow would let them overrule the model's configuration.
    params=ParamSchema(
        [
            ParamSpec("batch_size", DataType.long, default=None),
            ParamSpec("device", DataType.string, default=None),
            ParamSpec("top_k", DataType.long, default=None),
        ]
    ),
)
_MODEL_CONFIG = {"batch_size": 32, "device": None, "top_k": 1, "truncation": True}
"""What `mlflow.pyfunc` predicts with unless a caller says otherwise; no device: where MLflow has loaded the model."""


def write_model(folder: Path, checkpoint: Path, *, max_length: int, examples: Sequence[str], card: str) -> None:
    """Writes an MLflow transformers model (task text-classification) and its card into the new `folder`.

    As `mlflow.pyfunc` model, and in MLflow's scoring server, it takes `batch_size`, `device` and `top_k`: for one call
    (`predict(texts, params={"top_k": 2})`) or for all (`load_model(uri, model_config={"batch_size": 64})`).
    """
    with quiet("mlflow", "huggingface_hub"):
        pipeline = transformers.pipeline(
            "text-classification",
            model=transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint),
            tokenizer=transformers.AutoTokenizer.from_pretrained(checkpoint),
        )
        mlflow.transformers.save_model(
            pipeline,
            str(folder),
            signature=_SIGNATURE,
            input_example=(list(examples), {"batch_size": 8, "top_k": 1}),
            model_config={**_MODEL_CONFIG, "max_length": max_length},
            code_paths=[tuneserve_pyfunc.__file__],
            # Given, because MLflow would otherwise load the model in a new process to find out.
            pip_requirements=[f"{name}=={_public_version(name)}" for name in _REQUIREMENTS],
            # Given, because MLflow would otherwise ask the Hub.
            model_card=huggingface_hub.ModelCard(card),
        )
    model = Model.load(str(folder))
    model.flavors["python_function"]["loader_module"] = Path(tuneserve_pyfunc.__file__).stem
    model.save(str(folder / "MLmodel"))
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "LICENSE.txt").write_text(LICENCE_NOTE + "\n", encoding="utf-8")


def load_pipeline(folder: Path) -> Callable[[list[str]], list[str]]:
    """The model that `write_model` wrote, as MLflow loads it: from texts to labels."""
    with quiet("mlflow"):
        pipeline = mlflow.transformers.load_model(str(folder))
    return lambda texts: [str(answer["label"]) for answer in pipeline(texts, truncation=True)]


def register(
    tracker: Tracker,
    run_id: str,
    folder: Path,
    *,
    name: str,
    description: str,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> int:
    """Uploads `folder` as a logged model of the run, registers it as the next version of `name` and returns that.

    What an interrupted attempt for the same run left behind is removed. Raises `PromotionError` when MLflow refuses.
    """
    client = tracker.client
    try:
        experiment_id = client.get_run(run_id).info.experiment_id
        for left_over in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
            client.delete_logged_model(left_over.model_id)
        model = client.create_logged_model(experiment_id, name, source_run_id=run_id, model_type="text-classification")
        _write_ids(folder, run_id, model.model_id)
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        now_ms = model.creation_timestamp
        client.log_batch(
            run_id,
            [Metric(f"test_{key}", value, now_ms, 0, model.model_id) for key, value in metrics.items()],
        )
        _create_registered_model(tracker, name)
        # The folder itself, not `models:/<id>`: MLflow would look that up in its process-wide tracking server.
        version = client.create_model_version(
            name,
            model.artifact_location,
            run_id=run_id,
            tags=dict(tags),
            description=description,
            model_id=model.model_id,
        )
    except MlflowException as error:
        raise PromotionError(f"{tracker.uri} refuses to register {name!r}: {str(error).strip()}") from error
    return int(version.version)


def _write_ids(folder: Path, run_id: str, model_id: str) -> None:
    """Files in MLmodel whose model this is: MLflow's own `log_model` does the same before it saves."""
    model = Model.load(str(folder))
    model.run_id, model.model_id, model.model_uuid = run_id, model_id, model_id
    model.save(str(folder / "MLmodel"))


def _create_registered_model(tracker: Tracker, name: str) -> None:
    try:
        tracker.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _public_version(package: str) -> str:
    """Without a local part such as `+cpu`, which no registry knows."""
    return importlib.metadata.version(package).partition("+")[0]
