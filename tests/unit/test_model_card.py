from dataclasses import replace

import huggingface_hub
import pytest

from common.tokenised import PreparedData
from tune.export import ExportReport
from tune.gate import Verdict
from tune.model_card import model_card

PREPARED = PreparedData(
    uri="/storage/data/0",
    digest="0" * 64,
    data_digest="d" * 64,
    test_digest="t" * 64,
    labels=("ham", "spam"),
    num_rows={"test": 30, "train": 240, "validation": 31},
    max_length=96,
    pad_token_id=0,
    base_model="org/encoder",
    source="sms.csv",
)
VERDICT = Verdict(True, "accuracy", 0.9, 0.8, 0.1, (0.05, 0.15), 0.95, 30, 0, 4, "accuracy 0.9 against 0.8")
EXPORTED = ExportReport("int8", 2.5e-6, 0.912, 0.911, 31, 23_500_000, 9.0)


def card(prepared: PreparedData = PREPARED, verdict: Verdict = VERDICT) -> str:
    return model_card(
        prepared,
        name="sms-spam",
        alias="champion",
        metrics={"accuracy": 0.9, "macro_f1": 0.85},
        verdict=verdict,
        exported=EXPORTED,
        params={"learning_rate": "0.0001"},
    )


def test_the_hub_reads_the_front_matter() -> None:
    data = huggingface_hub.ModelCard(card()).data

    assert (data.base_model, data.pipeline_tag, data.library_name) == (
        "org/encoder",
        "text-classification",
        "transformers",
    )


@pytest.mark.parametrize(
    "part",
    [
        "`ham`, `spam`",
        "cut after 96 tokens",
        "`sms.csv`, sha256 of the rows `" + "d" * 64,
        "| train | 240 |\n| validation | 31 |\n| test | 30 |",
        "| accuracy | 0.9000 |\n| macro_f1 | 0.8500 |\n\nMeasured on the 30 rows",
        "before this one: 4;",
        "Passed: accuracy 0.9 against 0.8.",
        "ONNX in int8, 23.5 MB. Validation accuracy in fp32 0.9120, in int8 0.9110 on 31 rows",
        "| learning_rate | 0.0001 |",
        'load_model("models:/sms-spam@champion", truncation=True, max_length=96)',
        "the licences of both bind whoever uses it",
    ],
)
def test_the_card_says_what_a_user_must_know(part: str) -> None:
    assert part in card()


def test_a_model_of_the_hub_is_named_with_its_commit() -> None:
    assert "Fine-tuned from `org/encoder`, commit `c0ffee`." in card(replace(PREPARED, base_revision="c0ffee"))
    assert "Fine-tuned from `org/encoder`." in card()


def test_a_candidate_that_failed_says_so() -> None:
    assert "\nNot passed: accuracy" in card(verdict=replace(VERDICT, passed=False))


def test_programs_find_the_metrics_where_the_hub_looks_for_them() -> None:
    results = huggingface_hub.ModelCard(card()).data.eval_results

    assert [(result.metric_type, result.metric_value) for result in results] == [("accuracy", 0.9), ("macro_f1", 0.85)]
    assert {(result.dataset_name, result.dataset_split) for result in results} == {("sms.csv", "test")}


def test_a_folder_on_somebodys_machine_is_named_without_its_path() -> None:
    text = card(replace(PREPARED, base_model="/home/someone/models/encoder"))

    assert "base_model: encoder\n" in text
    assert "someone" not in text
