"""Drawing a trial's parameters from a recipe's search space, with Optuna."""

import optuna

from common.search_range import Range
from common.search_settings import Search


def draw(trial: optuna.Trial, search: Search) -> None:
    """Draws the settings that are searched in this trial; what was drawn before, or is fixed by a point, stays."""
    drawn: dict[str, int | float | str] = {}
    for name in search.draw_order():
        if search.space[name].applies(drawn):
            drawn[name] = _suggest(trial, name, search.space[name])


def _suggest(trial: optuna.Trial, name: str, values: Range) -> int | float | str:
    if values.is_continuous:
        low, high = values.log_uniform or values.uniform or (0.0, 0.0)
        return trial.suggest_float(name, low, high, log=values.log_uniform is not None)
    whole = values.integer or values.log_integer
    if whole is not None:
        return trial.suggest_int(name, *whole, log=values.log_integer is not None)
    chosen = trial.suggest_categorical(name, values.bounds())
    assert chosen is not None, "no range holds None"
    return chosen
