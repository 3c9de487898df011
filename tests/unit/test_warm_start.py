"""Where a search starts: given points, or the best trials of an earlier sweep that lie in the space."""

from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from common.recipe_file import shipped_recipes
from common.storage import write_json
from scripts.job import Job
from scripts.warm_start import MAX_POINTS, starting_points

SPACE = "search.space={batch_size: {choice: [16, 32]}, learning_rate: {log_uniform: [1.0e-5, 1.0e-3]}}"


def job(storage: Path, *overrides: str) -> Job:
    return Job.load(str(shipped_recipes()["quickstart"]), [SPACE, *overrides], str(storage), None)


def trial(number: int, state: str = "complete", **params: Any) -> dict[str, Any]:
    return {"number": number, "state": state, "params": params, "metrics": {"accuracy": 0.9}}


def store(storage: Path, sweep_id: str, *trials: dict[str, Any], name: str = "earlier", at: float = 1.0) -> None:
    result = {"sweep_id": sweep_id, "name": name, "finished_at": at, "trials": trials}
    write_json(f"{storage}/runs/{sweep_id}/result.json", result)


def test_points_of_the_recipe_are_tried_as_given(tmp_path: Path) -> None:
    given = job(tmp_path, "search.warm_start=[{learning_rate: 1e-4}, {batch_size: 16}]")
    assert starting_points(given) == [{"learning_rate": 1e-4}, {"batch_size": 16}]
    assert starting_points(job(tmp_path)) == []


@pytest.mark.parametrize("named", ["earlier-sweep-2", "earlier"])
def test_an_earlier_sweep_gives_its_best_trials_that_lie_in_the_space(named: str, tmp_path: Path) -> None:
    store(tmp_path, "earlier-sweep-1", trial(0, batch_size=32, learning_rate=9e-4))
    store(
        tmp_path,
        "earlier-sweep-2",
        trial(4, batch_size=16, learning_rate=1e-4, weight_decay=0.1),  # not searched now
        trial(2, batch_size=64, learning_rate=1e-4),  # outside
        trial(3, batch_size=16, learning_rate=1e-4),  # the same point
        trial(1, "failed", batch_size=16, learning_rate=2e-4),
        trial(0, "pruned", batch_size=32, learning_rate=3e-4),
        at=2.0,
    )
    found = starting_points(job(tmp_path, f"search.warm_start={named}"))
    assert found == [{"batch_size": 16, "learning_rate": 1e-4}, {"batch_size": 32, "learning_rate": 3e-4}]


def test_no_more_points_are_taken_than_leave_something_to_search(tmp_path: Path) -> None:
    store(tmp_path, "many", *(trial(n, batch_size=16, learning_rate=(n + 1) * 1e-5) for n in range(9)))
    assert len(starting_points(job(tmp_path, "search.warm_start=many"))) == MAX_POINTS
    assert len(starting_points(job(tmp_path, "search.warm_start=many", "search.num_trials=2"))) == 2


def test_an_unknown_sweep_is_refused_with_those_there_are(tmp_path: Path) -> None:
    store(tmp_path, "earlier-sweep-1", trial(0, batch_size=16))
    with pytest.raises(InputError, match=r"no finished sweep 'none'.*finished are: earlier-sweep-1"):
        starting_points(job(tmp_path, "search.warm_start=none"))


def test_a_sweep_that_did_not_finish_says_how_to_finish_it(tmp_path: Path) -> None:
    (tmp_path / "runs" / "open-sweep").mkdir(parents=True)
    with pytest.raises(InputError, match=r"did not finish; continue it with .*--resume"):
        starting_points(job(tmp_path, "search.warm_start=open-sweep"))


def test_a_sweep_without_a_trial_in_the_space_says_why(tmp_path: Path) -> None:
    store(tmp_path, "earlier-sweep-1", trial(7, batch_size=64))
    with pytest.raises(InputError, match=r"trial 7: batch_size 64 lies outside search.space, choice: \[16, 32\]"):
        starting_points(job(tmp_path, "search.warm_start=earlier"))
