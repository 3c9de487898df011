"""`tuneserve deploy --canary` and `--shadow`: what the options ask for, and what people read of it."""

from pathlib import Path
from typing import Any

import pytest

import scripts.canary
import scripts.serving
from common.errors import InputError
from common.recipe_file import shipped_recipes
from scripts.canary import canary_line, canary_of, canary_status_line
from scripts.cli import main
from scripts.job import Job
from serve.canary_settings import CanarySettings

SETTINGS = CanarySettings("canary", 10, 2, "candidate", 200, 0.8, "now")
RUNNING = {"mode": "canary", "percent": 10, "state": "running", "reason": None, "compared": 41, "min_requests": 200}
STATUS: dict[str, Any] = {**RUNNING, "agreement": 0.951, "candidate": {"version": 2}, "problem": None}
NONE: dict[str, Any] = dict.fromkeys(("canary", "shadow", "candidate", "min_requests", "min_agreement"))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.load(str(shipped_recipes()["quickstart"]), (), str(tmp_path), None)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The plans that were made."""
    made: list[dict[str, Any]] = []

    def plan(recipe: object, *, tracking_uri: str, storage: str, **options: Any) -> CanarySettings:
        made.append(options)
        return SETTINGS

    monkeypatch.setattr(scripts.canary, "plan_canary", plan)
    return made


def test_without_a_share_there_is_no_candidate(job: Job, planned: list[dict[str, Any]]) -> None:
    assert canary_of(job, **NONE) is None
    assert planned == []


@pytest.mark.parametrize("option", ["candidate", "min_requests", "min_agreement"])
def test_how_to_compare_without_a_candidate_is_refused_and_not_ignored(option: str, job: Job) -> None:
    with pytest.raises(InputError, match=rf"--{option.replace('_', '-')} 0 .*add --canary PERCENT or --shadow"):
        canary_of(job, **{**NONE, option: 0})


def test_a_candidate_either_answers_or_does_not(job: Job) -> None:
    with pytest.raises(InputError, match="--canary and --shadow exclude each other"):
        canary_of(job, **{**NONE, "canary": 10, "shadow": 10})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--canary", "10"], {"mode": "canary", "percent": 10}),
        (["--canary", "0"], {"mode": "canary", "percent": 0}),  # which is refused, and not taken for none
        (["--shadow=30"], {"mode": "shadow", "percent": 30}),
        (["--shadow"], {"mode": "shadow", "percent": 10}),
        (
            ["--canary=5", "--candidate", "7", "--min-requests=9", "--min-agreement=0"],
            {"mode": "canary", "percent": 5, "candidate": "7", "min_requests": 9, "min_agreement": 0.0},
        ),
    ],
)
def test_the_command_line_says_who_is_compared_and_how(
    words: list[str],
    expected: dict[str, Any],
    planned: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    deployed: list[CanarySettings | None] = []
    monkeypatch.setattr(scripts.serving, "deploy", lambda job, canary: deployed.append(canary) or {})

    with pytest.raises(SystemExit) as ending:
        main(
            ["deploy", str(shipped_recipes()["quickstart"]), "--storage", str(tmp_path), *words], standalone_mode=False
        )

    assert ending.value.code == 0
    assert deployed == [SETTINGS]
    defaults = {"candidate": "candidate", "min_requests": 200, "min_agreement": 0.8}
    assert planned == [{**defaults, **expected}]


def test_people_read_what_happens_from_now_on() -> None:
    assert "version 2 answers 10 % of the requests" in canary_line(SETTINGS)
    assert "answers none" in canary_line(CanarySettings("shadow", 10, 2, None, 200, 0.8, "now"))


def test_people_read_how_it_does_and_how_it_ended() -> None:
    assert canary_status_line(STATUS) == ("canary of version 2  10 %, 41 of 200 requests compared, agreement 0.951")
    assert canary_status_line({**STATUS, "agreement": None, "problem": "away"}).endswith("compared; away")
    ended = canary_status_line({**STATUS, "state": "rolled back", "reason": "it failed 5 of 5 requests"})
    assert ended == "canary of version 2  rolled back: it failed 5 of 5 requests"
