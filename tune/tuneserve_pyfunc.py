"""What `mlflow.pyfunc.load_model` loads a registered classifier with; a copy of this file travels with each version.

MLflow's own loader of transformers models lets a signature's defaults overrule the model's configuration, even what
`load_model(model_config=...)` says, gives `device` to the tokenizer, and answers `top_k` with columns of dictionaries
(mlflow/transformers/__init__.py, `_TransformersWrapper`). So nothing but MLflow, pandas, torch and transformers is
imported here.
"""

from typing import Any

import mlflow.transformers
import pandas as pd
import torch
from mlflow.exceptions import MlflowException


class TextClassifier:
    """A text-classification pipeline with the configuration that it was saved or loaded with."""

    def __init__(self, pipeline: Any, model_config: dict[str, Any]) -> None:
        self._pipeline = pipeline
        self._config = model_config

    def get_raw_model(self) -> Any:
        """The `transformers` pipeline: what `PyFuncModel.get_raw_model` returns."""
        return self._pipeline

    def predict(self, texts: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The `label` and `score` of each text: one row a text, or `top_k` rows each, the best first.

        What `params` leaves out, or gives as None, is as in the model's configuration. Raises MlflowException
        (INVALID_PARAMETER_VALUE) for a batch size or `top_k` below 1 and for a device that is not there.
        """
        config = self._config | {name: value for name, value in (params or {}).items() if value is not None}
        for name in ("batch_size", "top_k"):
            if config[name] < 1:
                raise MlflowException.invalid_parameter_value(f"{name} {config[name]} is below 1; give 1 or more")
        if (device := config.pop("device")) is not None:
            self._move(device)
        column = texts.iloc[:, 0] if isinstance(texts, pd.DataFrame) else [texts] if isinstance(texts, str) else texts
        answers = self._pipeline(list(column), **config)
        return pd.DataFrame([found for of_text in answers for found in of_text], columns=["label", "score"])

    def _move(self, name: str) -> None:
        try:
            device = torch.device(name)
            self._pipeline.model.to(device)
        except (RuntimeError, AssertionError) as error:  # no such kind of device; none here, or none of that number
            reason = str(error).splitlines()[0]
            raise MlflowException.invalid_parameter_value(
                f"device {name!r} cannot be used here ({reason}); give 'cpu', or such as 'cuda:0' where there is one"
            ) from error
        self._pipeline.device = device


def _load_pyfunc(path: str, model_config: dict[str, Any]) -> TextClassifier:
    """Called by MLflow with the model's folder."""
    return TextClassifier(mlflow.transformers.load_model(path), model_config)
