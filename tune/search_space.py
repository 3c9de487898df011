"""From a recipe's search space to Optuna's distributions."""

from collections.abc import Mapping

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from common.search_settings import Range


def distributions(space: Mapping[str, Range]) -> dict[str, BaseDistribution]:
    """One Optuna distribution for each searched setting, in the recipe's order."""
    return {name: _distribution(values) for name, values in space.items()}


def _distribution(values: Range) -> BaseDistribution:
    if values.log_uniform:
        return FloatDistribution(*values.log_uniform, log=True)
    if values.uniform:
        return FloatDistribution(*values.uniform)
    if values.integer:
        return IntDistribution(*values.integer)
    return CategoricalDistribution(values.bounds())
