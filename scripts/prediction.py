"""Predictions on the command line: texts in this process, files with Ray Data."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.classifier import Classifier
from common.cluster import connect, resources
from common.errors import InputError, RegistryError
from common.location import is_url
from common.recipe_file import is_override
from common.registry import ModelRegistry, ModelVersion
from scripts.display import say
from scripts.job import Job, storage_location, tracking_location
from scripts.steps import Result
from serve.engine import fetch

_MODEL_URI = re.compile(r"^models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/]+)|/(?P<version>\d+))$")


def predict(
    target: str,
    texts: Sequence[str] = (),
    *,
    storage: str | None = None,
    mlflow_uri: str | None = None,
    file: str | None = None,
    out: str | None = None,
    text_column: str | None = None,
) -> Result:
    """Classifies texts, or a file's rows, with a recipe's champion or `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        InputError: when it is not clear what to classify or where to write it.
        RegistryError: when there is no such model.
    """
    is_recipe = not target.startswith("models:/")  # of which no setting can be overridden: all are texts
    overrides = [text for text in texts if is_recipe and is_override(text)]
    texts = [text for text in texts if text not in overrides]
    if bool(texts) == bool(file):
        raise InputError("give either texts to classify or --file FILE, one of the two")
    if file and not (out and out.endswith((".parquet", ".csv"))):
        raise InputError(
            f"--out {out or 'is missing'}: name the .parquet or .csv file to write, for example --out out.parquet"
        )
    registry, version, place, column = _resolve(target, overrides, storage, mlflow_uri)
    uri = registry.fetchable_uri(version, place)
    model = {"model": version.name, "version": version.version}
    if file and out:
        return {**_predict_file(file, out, uri, text_column or column), **model}
    found = Classifier.load(fetch(uri)).classify(texts)
    for text, prediction in zip(texts, found, strict=True):
        say(f"{prediction.label:<12} {prediction.score:.4f}  {text}")
    predictions = [{"text": text, **asdict(prediction)} for text, prediction in zip(texts, found, strict=True)]
    return {"predictions": predictions, **model}


def _resolve(
    target: str, overrides: Sequence[str], storage: str | None, mlflow_uri: str | None
) -> tuple[ModelRegistry, ModelVersion, str, str]:
    """The registry, the version that the target names, the storage, and the recipe's text column."""
    if not target.startswith("models:/"):
        job = Job.load(target, overrides, storage, mlflow_uri)
        registry = ModelRegistry(job.tracking_uri)
        version = registry.by_alias(job.recipe.registered_model, job.recipe.registry.alias)
        return registry, version, job.storage, job.recipe.data.text_column
    match = _MODEL_URI.match(target)
    if match is None:
        raise RegistryError(f"{target!r} is not a model; write models:/NAME@ALIAS or models:/NAME/VERSION")
    place = storage_location(storage)
    registry = ModelRegistry(tracking_location(mlflow_uri, place))
    if match["alias"]:
        return registry, registry.by_alias(match["name"], match["alias"]), place, "text"
    return registry, registry.by_version(match["name"], int(match["version"])), place, "text"


def _predict_file(file: str, out: str, uri: str, text_column: str) -> Result:
    from serve.batch_prediction import predict_file

    source, target = _location(file), _location(out)
    with connect():
        num_rows = predict_file(
            source,
            target,
            uri=uri,
            text_column=text_column,
            num_actors=max(1, int(resources().num_cpus) - 1),
            on_rows=lambda done, rows: say(f"  {done:,} of {rows:,} rows"),
        )
    say(f"{num_rows:,} rows with predictions are in {target}")
    return {"rows": num_rows, "out": target}


def _location(given: str) -> str:
    """A URL as it is, a path from the root on."""
    return given if is_url(given) else str(Path(given).expanduser().absolute())
