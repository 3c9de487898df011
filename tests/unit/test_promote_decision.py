"""When an earlier promotion of the same candidate still holds; the rest of `tune.promote` is in integration tests."""

from dataclasses import replace

import pytest

from common.recipe import Recipe
from common.registry import ModelVersion
from common.tokenised import PreparedData
from tune import promote
from tune.promote import Promotion

OUTCOME = Promotion("news", 2, True, {"accuracy": 0.9}, {"interval": [0.01, 0.1], "champion": None, "reason": "better"})
CHAMPION = ModelVersion("news", 1, "uri", "run-1")
CANDIDATE = ModelVersion("news", 2, "uri", "run-2", promote._decision_tags(OUTCOME, "settings", CHAMPION))


@pytest.mark.parametrize("champion", [CHAMPION, CANDIDATE])
def test_a_decision_holds_against_the_same_champion_and_once_the_candidate_is_the_champion(
    champion: ModelVersion,
) -> None:
    assert promote._decision(CANDIDATE, "settings", champion) == OUTCOME


def test_the_first_decision_holds_without_a_champion() -> None:
    tags = promote._decision_tags(OUTCOME, "settings", None)
    assert promote._decision(replace(CANDIDATE, tags=tags), "settings", None) == OUTCOME


@pytest.mark.parametrize(
    ("registered", "settings", "champion"),
    [
        (None, "settings", CHAMPION),
        (replace(CANDIDATE, tags={}), "settings", CHAMPION),
        (CANDIDATE, "another gate", CHAMPION),
        (CANDIDATE, "settings", replace(CHAMPION, version=3)),
        (CANDIDATE, "settings", None),
    ],
)
def test_a_candidate_is_judged_anew_when_anything_it_was_judged_by_has_changed(
    registered: ModelVersion | None, settings: str, champion: ModelVersion | None
) -> None:
    assert promote._decision(registered, settings, champion) is None


def test_gate_and_test_split_decide_whether_a_candidate_is_judged_anew() -> None:
    def digest(test: str = "a", data: str = "a", **sections: object) -> str:
        recipe = Recipe.model_validate(
            {"name": "news", "data": {"source": "x.csv"}, "model": {"base": "b"}, **sections}
        )
        prepared = PreparedData("", "", data, test, (), {}, 8, 0, "b", "x.csv")
        return promote._settings_digest(recipe, prepared)

    assert digest(data="b", serve={"max_replicas": 9}) == digest()
    assert digest(test="b") != digest()
    assert digest(registry={"gate": {"minimum": 0.5}}) != digest()
