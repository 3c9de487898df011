"""Reading recipes: every mistake in one report, paths where the reader expects them."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import RecipeError
from common.recipe import Recipe
from common.recipe_file import dump_recipe, is_override, load_recipe, shipped_recipes

MINIMAL = "name: spam\ndata: {source: builtin:finance_headlines}\nmodel: {base: builtin:tiny_bert}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def problems(path: Path, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return caught.value.problems


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_validates_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(shipped_recipes()[name])
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_opens_with_purpose_command_and_override_example(name: str) -> None:
    text = shipped_recipes()[name].read_text()
    opening = text.split("\nname:")[0]
    assert opening.startswith("# ")
    assert f"tuneserve run recipes/{name}.yaml\n" in opening
    assert any(f"recipes/{name}.yaml " in line and "=" in line for line in opening.splitlines())


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_command_in_a_shipped_recipe_is_one_that_is_understood(name: str) -> None:
    opening = shipped_recipes()[name].read_text().split("\nname:")[0]
    commands = re.findall(r"tuneserve \w+ recipes/.*", opening.replace("\\\n#", ""))
    assert len(commands) >= 2
    for command in commands:
        _, _, path, *overrides = shlex.split(command)
        assert load_recipe(shipped_recipes()[name].parent.parent / path, overrides).name
    if name != "quickstart":
        assert any("PATH/" in command for command in commands)


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name != "quickstart"])
def test_the_search_of_a_workflows_recipe_starts_from_what_was_tried_by_hand(name: str) -> None:
    search = load_recipe(shipped_recipes()[name]).search
    assert isinstance(search.warm_start, tuple)
    assert len(search.warm_start) == 3
    for point in search.warm_start:
        assert point.keys() == search.space.keys()
        assert search.point_problems(point) == []


def test_three_mistakes_are_all_reported_with_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "train:\n  epochs: 0\n  batchsize: 4\nserve: {min_replicas: 5}\n")
    assert problems(path) == (
        "line 5: train.epochs: input should be greater than 0 (given: 0)",
        "line 6: train has no setting 'batchsize'; did you mean 'batch_size'? known: epochs, batch_size, "
        "learning_rate, weight_decay, warmup_ratio, precision, seed, logging_steps, num_workers, use_gpu, "
        "gpus_per_worker, placement",
        "line 7: serve: min_replicas 5 is above max_replicas 2",
    )


def test_mistakes_of_file_and_overrides_come_in_one_report(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "train: {epochs: 0}\n")
    found = problems(path, "train.sed=3", "nonsense", "train.seed=-1")
    assert [problem.split(":")[0] for problem in found] == [
        "override 'train.sed=3'",
        "override 'nonsense'",
        "line 4",
        "override 'train.seed=-1'",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds nothing"),
        ("- a\n", "holds a list"),
        ("name: [a\n", "line 2: not valid YAML"),
        (MINIMAL + "train: {seed: 1}\ntrain: {seed: 2}\n", "train is given twice (first on line 4)"),
        ("name: spam\ndata: {source: x}\n", "model is required"),
        (MINIMAL.replace("spam", "Spam!"), "line 1: name"),
        (MINIMAL.replace("spam", "docs"), "path of the gateway itself"),
        (MINIMAL + "search: {space: {learning_rate: {log_uniform: [1.0e-3, 1.0e-5]}}}\n", "swap them"),
        (MINIMAL + "search: {space: {batch_size: {choice: [0]}}}\n", "space.batch_size holds 0"),
        (MINIMAL + "search: {space: {lr: {fixed: 1}}}\n", "space.lr cannot be searched"),
        (
            MINIMAL + "search: {space: {batch_size: {uniform: [16, 32]}}}\n",
            "uniform draws fractions; use int, log_int or choice",
        ),
        (MINIMAL + "search: {space: {epochs: {log_uniform: [1, 4]}}}\n", "space.epochs takes whole numbers"),
        (
            MINIMAL.replace("data: {", "data: {sha256: 12ab, "),
            "data.sha256: '12ab' is not the digest of rows, which has 64 digits 0-9a-f; copy the one that",
        ),
        (MINIMAL + "registry: {model: team/spam}\n", "'team/spam' cannot be registered"),
        (MINIMAL + "registry: {model: 'a:b'}\n", "holds no '/' or ':'"),
        (MINIMAL + "registry: {model: ' '}\n", "line 4: registry.model: ' ' cannot be registered"),
        (MINIMAL + "registry: {model: ''}\n", "'' cannot be registered"),
        (MINIMAL + "search: {space: {}}\n", "line 4: search: space names no setting to search"),
        (MINIMAL + "search: {space: {precision: {choice: [fp32, fp8]}}}\n", "space.precision holds fp8"),
        (
            MINIMAL + "search: {space: {lora.r: {choice: [4]}}}\n",
            "the recipe has no model.lora; add `lora: {}` to model",
        ),
        (
            MINIMAL.replace("bert}", "bert, lora: {}}") + "search: {space: {lora.r: {uniform: [1, 4]}}}\n",
            "whole numbers",
        ),
        (MINIMAL.replace("bert}", "bert, lora: {}}") + "search: {space: {lora.r: {choice: [0]}}}\n", "lora.r holds 0"),
        (MINIMAL + "search: {metric: f2}\n", "search.metric: input should be 'accuracy', 'macro_f1' or 'loss'"),
        (MINIMAL + "search: {num_trials: 0}\n", "search.num_trials: input should be greater than 0 (given: 0)"),
        (MINIMAL + "search: {warm_start: [3]}\n", "search.warm_start: should be the name of an earlier sweep"),
        (MINIMAL + "search: {warm_start: [{batch_size: 64}]}\n", "point 1: batch_size 64 lies outside search.space"),
        (MINIMAL + "search: {space: {epochs: {fixed: 1, choice: [2]}}}\n", "exactly one of"),
        (MINIMAL + "train: {num_workers: {min: 3, max: 2}}\n", "swap them"),
        (MINIMAL + "train: {num_workers: 2, gpus_per_worker: 0.5}\n", "NCCL refuses"),
        (MINIMAL + "train: {placement: scatter}\n", "line 4: train.placement: input should be 'pack' or 'spread'"),
        (MINIMAL + "data: 3\n", "given twice"),
    ],
)
def test_a_wrong_recipe_names_the_rule(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="problem") as caught:
        load_recipe(write(tmp_path, text))
    assert said in str(caught.value)


@pytest.mark.parametrize("uri", ["http://ann:s3cr3t@mlflow.example", "postgresql://ann:s3cr3t@db/mlflow"])
def test_a_password_in_a_recipe_is_refused_and_not_repeated(uri: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe(str(shipped_recipes()["quickstart"]), [f"tracking.mlflow_uri={uri}"])
    assert "tracking.mlflow_uri: holds a password" in str(refused.value)
    assert "s3cr3t" not in str(refused.value)


def test_a_mistake_that_an_override_made_inside_a_section_names_the_override(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "search: {space: {learning_rate: {log_uniform: [1.0e-5, 1.0e-3]}}}\n")
    override = "search.space.learning_rate.log_uniform=[1.0e-3, 1.0e-5]"
    assert problems(path, override)[0].startswith(f"override {override!r}: search.space.learning_rate: bounds")


def test_a_missing_recipe_names_those_that_ship(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"quickstart\.yaml"):
        load_recipe(tmp_path / "none.yaml")


def test_paths_of_the_file_are_relative_to_it_and_those_of_overrides_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "minilm").mkdir()
    text = "name: spam\nstorage: out\ndata: {source: all.csv}\nmodel: {base: minilm}\n"
    path = write(tmp_path / "recipes", text)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path, ["data.test_source=test.csv", "tracking.mlflow_uri=sqlite:///m.db"])
    assert recipe.storage == str(tmp_path / "recipes" / "out")
    assert recipe.data.source == str(tmp_path / "recipes" / "all.csv")
    assert recipe.model.base == str(tmp_path / "recipes" / "minilm")
    assert recipe.data.test_source == str(tmp_path / "test.csv")
    assert recipe.tracking.mlflow_uri == f"sqlite:///{tmp_path}/m.db"


@pytest.mark.parametrize("source", ["s3://bucket/all.csv", "ucirvine/sms_spam", "builtin:finance_headlines"])
def test_urls_hub_ids_and_keywords_stay_as_they_are(source: str, tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, MINIMAL), [f"data.source={source}"]).data.source == source


def test_a_text_setting_takes_an_override_that_looks_like_a_number_or_a_truth_value(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["data.label_column=0", "data.text_column=yes", "train.epochs=1"])
    assert (recipe.data.label_column, recipe.data.text_column, recipe.train.epochs) == ("0", "yes", 1)


def test_label_names_may_be_keyed_by_the_numbers_that_the_data_writes(tmp_path: Path) -> None:
    text = MINIMAL.replace("headlines}", "headlines, label_names: {0: bearish, 1: bullish}}")
    assert load_recipe(write(tmp_path, text)).data.label_names == {"0": "bearish", "1": "bullish"}


def test_two_names_for_one_label_are_refused_wherever_they_are_given(tmp_path: Path) -> None:
    text = MINIMAL.replace("headlines}", "headlines, label_names: {0: bearish, '0': bullish}}")
    with pytest.raises(RecipeError, match=r"data.label_names.0 is given twice"):
        load_recipe(write(tmp_path, text))
    with pytest.raises(RecipeError, match=r"label '0' is given two names, as a number and as a text"):
        load_recipe(write(tmp_path, MINIMAL), ["data.label_names={0: bearish, '0': bullish}"])


@pytest.mark.parametrize("override", ["model.revision=v2", "data.revision=v2", "model={base: ./minilm, revision: v2}"])
def test_a_revision_of_what_is_not_on_the_hub_is_refused(override: str, tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, MINIMAL), override)
    assert "revision 'v2' has no effect: only the Hub has revisions" in problem


def test_an_override_names_one_label_whether_or_not_the_file_names_any(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert load_recipe(path, ["data.label_names.0=bearish"]).data.label_names == {"0": "bearish"}
    text = MINIMAL.replace("headlines}", "headlines, label_names: {0: bear, 1: bullish}}")
    changed = load_recipe(write(tmp_path, text), ["data.label_names.0=bearish"])
    assert changed.data.label_names == {"0": "bearish", "1": "bullish"}


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("train.epochs=1", True),
        ("name=spam", True),
        ("data.label_names.0=bearish", True),
        ("trian.epochs=1", True),  # a misspelt one is to be refused, not classified
        ("price=3 and falling", False),
        ("Profits rose: 3=3.", False),
        ("shares of data=", False),
        ("--out=x.parquet", False),
    ],
)
def test_overrides_are_told_from_texts(argument: str, expected: bool) -> None:
    assert is_override(argument) is expected


def test_a_registered_models_name_may_hold_what_mlflow_allows(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["registry.model=Team Spam_v2.1"])
    assert recipe.registered_model == "Team Spam_v2.1"


def test_overrides_reach_into_the_search_space(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["search.space.epochs.int=[1, 4]"])
    assert recipe.search.space["epochs"].integer == (1, 4)
    conditional = load_recipe(
        write(tmp_path, MINIMAL),
        ["search.space.epochs={int: [1, 4], when: {batch_size: [16]}}", "search.space.batch_size.fixed=16"],
    )
    assert conditional.search.space["epochs"].when == {"batch_size": (16,)}


def test_starting_points_survive_a_round_trip(tmp_path: Path) -> None:
    for start in ("[{batch_size: 16, learning_rate: 1e-4}]", "an-earlier-sweep"):
        recipe = load_recipe(write(tmp_path, MINIMAL), [f"search.warm_start={start}"])
        assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


@given(st.dictionaries(st.text(), st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers()))))
@example({"[key]": None})
def test_any_mapping_gives_a_recipe_or_a_recipe_error(document: dict[str, object]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = write(Path(folder), yaml.safe_dump(document))
        with pytest.raises(RecipeError):
            load_recipe(path)


@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_override_gives_a_recipe_or_a_recipe_error(overrides: list[str]) -> None:
    with contextlib.suppress(RecipeError):
        assert isinstance(load_recipe(shipped_recipes()["quickstart"], overrides), Recipe)


def test_the_json_schema_describes_every_field() -> None:
    schema = Recipe.model_json_schema()
    for section in [schema, *schema["$defs"].values()]:
        for name, field in section["properties"].items():
            assert field.get("description") or "$ref" in field, name


def test_settings_of_own_replicas_are_refused_with_the_shared_pool_also_of_a_stored_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "serve: {pool: shared, max_replicas: 4, min_replicas: 0}\n")
    (problem,) = problems(path)
    assert problem.startswith("line 4: serve: with pool: shared there is no effect of max_replicas (default 2): ")
    assert "`tuneserve pool`" in problem

    shared = load_recipe(write(tmp_path, MINIMAL + "serve: {pool: shared, max_queued_requests: 9}\n"))
    assert load_recipe(write(tmp_path, dump_recipe(shared))) == shared
