"""The README.md of a registered version, in the layout that the Hugging Face Hub reads."""

from collections.abc import Mapping
from typing import Any

import yaml

from common.dataset import SPLITS
from common.tokenised import PreparedData
from tune.export import ExportReport
from tune.gate import Verdict

LICENCE_NOTE = (
    "This model is derived from its base model and its training data; the licences of both bind whoever uses it. They "
    "were not examined: look them up before you publish or sell anything made with it."
)


def model_card(
    prepared: PreparedData,
    *,
    name: str,
    alias: str,
    metrics: Mapping[str, float],
    verdict: Verdict,
    exported: ExportReport,
    params: Mapping[str, str],
) -> str:
    """Markdown with YAML front matter; `params` are the hyperparameters that the winning run was trained with."""
    # Of a folder on somebody's machine only the name means anything to a reader.
    base_model = _without_folders(prepared.base_model)
    at_commit = f", commit `{prepared.base_revision}`" if prepared.base_revision else ""
    front_matter = {
        "base_model": base_model,
        "library_name": "transformers",
        "license": "other",
        "license_name": "see-below",
        "model-index": _model_index(name, _without_folders(prepared.source), metrics),
        "pipeline_tag": "text-classification",
        "tags": ["tuneserve"],
    }
    sections = {
        "Intended use": f"Fine-tuned from `{base_model}`{at_commit}. {_intended_use(prepared)}",
        "Data": _data(prepared),
        "Test metrics": _table(("metric", "value"), {name: f"{value:.4f}" for name, value in metrics.items()})
        + f"\n\nMeasured on the {prepared.num_rows['test']} rows of the test split with the exported "
        f"{exported.precision} model, which is what serves. {_uses(verdict)}",
        "Gate": f"{'Passed' if verdict.passed else 'Not passed'}: {verdict.reason}.",
        "Export": _export(exported),
        "Hyperparameters": _table(("setting", "value"), params),
        "Loading": _loading(name, alias, prepared.max_length),
        "Licence": LICENCE_NOTE,
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"---\n{yaml.safe_dump(front_matter)}---\n\n# {name}\n\n{body}\n"


def _without_folders(location: str) -> str:
    return location.rpartition("/")[2] if location.startswith("/") else location


def _model_index(name: str, source: str, metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """The metrics where programs look for them: https://huggingface.co/docs/hub/model-cards#evaluation-results ."""
    result = {
        "task": {"type": "text-classification"},
        "dataset": {"type": source, "name": source, "split": "test"},
        "metrics": [{"type": metric, "value": round(float(value), 4)} for metric, value in metrics.items()],
    }
    return [{"name": name, "results": [result]}]


def _intended_use(prepared: PreparedData) -> str:
    labels = ", ".join(f"`{label}`" for label in prepared.labels)
    return (
        f"Classifies a short text as one of {labels}. Made for texts like those it was trained on; for other "
        f"languages, topics or lengths nothing was measured. Texts are cut after {prepared.max_length} tokens. Scores "
        "are softmax outputs and were not calibrated."
    )


def _data(prepared: PreparedData) -> str:
    rows = _table(("split", "rows"), {split: str(prepared.num_rows[split]) for split in SPLITS})
    return f"From `{_without_folders(prepared.source)}`, sha256 of the rows `{prepared.data_digest}`.\n\n{rows}"


def _uses(verdict: Verdict) -> str:
    return (
        f"Candidates judged on this test split before this one: {verdict.test_split_uses}; the more there were, the "
        "more the best of them flatters."
    )


def _export(exported: ExportReport) -> str:
    return (
        f"ONNX in {exported.precision}, {exported.num_bytes / 1e6:.1f} MB. Validation accuracy in fp32 "
        f"{exported.fp32_accuracy:.4f}, in int8 {exported.int8_accuracy:.4f} on {exported.rows} rows; in fp32 no logit "
        f"differs from torch by more than {exported.max_logit_difference:.1g}."
    )


def _loading(name: str, alias: str, max_length: int) -> str:
    uri = f"models:/{name}@{alias}"
    return (
        "```python\n"
        f'classify = mlflow.transformers.load_model("{uri}", truncation=True, max_length={max_length})\n'
        'classify("a text")\n'
        "```"
    )


def _table(header: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [
        f"| {header[0]} | {header[1]} |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in rows.items()),
    ]
    return "\n".join(lines)
