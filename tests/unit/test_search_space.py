"""From recipe ranges to Optuna distributions."""

import optuna
import pytest

from common.search_settings import Range
from tune.search_space import distributions


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        ({"log_uniform": (1e-5, 1e-3)}, (1e-5, 5e-4, 1e-3), (9e-6, 2e-3)),
        ({"uniform": (0.0, 0.1)}, (0.0, 0.1), (-0.1, 0.2)),
        ({"int": (1, 4)}, (1, 4), (0, 5)),
        ({"choice": (16, 32)}, (16, 32), (24,)),
        ({"fixed": 7}, (7,), (8,)),
    ],
)
def test_suggestions_stay_in_the_range(values: dict[str, object], inside: tuple, outside: tuple) -> None:
    distribution = distributions({"x": Range.model_validate(values)})["x"]

    def holds(value: float) -> bool:
        try:
            return distribution._contains(distribution.to_internal_repr(value))
        except ValueError:
            return False

    assert all(holds(value) for value in inside)
    assert not any(holds(value) for value in outside)


def test_a_logarithmic_range_is_sampled_evenly_by_magnitude() -> None:
    space = distributions({"x": Range(log_uniform=(1e-6, 1e-2))})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [study.ask(space).params["x"] for _ in range(200)]
    assert 60 < sum(value < 1e-4 for value in drawn) < 140
