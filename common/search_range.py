"""One searched setting: the values it may take, and when it is searched at all."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    WithJsonSchema,
    model_validator,
)

from common.settings import Settings


def _one_or_many(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def number_or_text(value: Any) -> int | float | str:
    """YAML takes `1e-5` for a text; a number is meant, since no text setting has a number's name."""
    if isinstance(value, str):
        for number in (int, float):
            with suppress(ValueError):
                value = number(value)
                break
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("should be a number or a text")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("should be a finite number")
    return value


_SCALAR = [{"type": "number"}, {"type": "string"}]

Value = Annotated[
    int | float | str,
    PlainValidator(number_or_text),
    WithJsonSchema({"anyOf": _SCALAR}),
]
"""What one searched setting may be."""

Point = Mapping[str, int | float | str]
"""Values of some or all searched settings."""


_Accepted = Annotated[
    tuple[Value, ...],
    BeforeValidator(_one_or_many),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [*_SCALAR, {"type": "array", "minItems": 1, "items": {"anyOf": _SCALAR}}]}),
]


class Range(Settings):
    """The values one searched setting may take; exactly one kind is given, and `when` if it depends on others."""

    model_config = ConfigDict(populate_by_name=True)

    log_uniform: tuple[PositiveFloat, PositiveFloat] | None = None
    """`[low, high]`, sampled uniformly in the logarithm."""
    uniform: tuple[FiniteFloat, FiniteFloat] | None = None
    """`[low, high]`, sampled uniformly."""
    integer: Annotated[tuple[int, int] | None, Field(alias="int")] = None
    """`[low, high]`, whole numbers, both ends included."""
    log_integer: Annotated[tuple[PositiveInt, PositiveInt] | None, Field(alias="log_int")] = None
    """`[low, high]`, whole numbers, both ends included, sampled uniformly in the logarithm."""
    choice: Annotated[tuple[Value, ...] | None, Field(min_length=1)] = None
    """One of the listed values, numbers or texts."""
    fixed: Value | None = None
    """Always this value."""
    when: dict[str, _Accepted] | None = None
    """Searched only in trials whose other settings have one of these values (`{batch_size: [16, 32]}`); in all others
    the recipe's value holds. The other settings are searched themselves, by choice, int, log_int or fixed."""

    @model_validator(mode="after")
    def _one_kind_with_ordered_bounds(self) -> Self:
        given = [name for name in _KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of log_uniform, uniform, int, log_int, choice, fixed")
        interval = self.interval
        if interval and interval[0] >= interval[1]:
            raise ValueError(f"bounds [{interval[0]:g}, {interval[1]:g}] are not in rising order; swap them")
        return self

    def __str__(self) -> str:
        """As it stands in a recipe, without its condition."""
        kinds = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"when"})
        return ", ".join(f"{kind}: {given}" for kind, given in kinds.items())

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of a range; None where values are listed."""
        return self.log_uniform or self.uniform or self.integer or self.log_integer

    @property
    def is_logarithmic(self) -> bool:
        """Whether values are drawn uniformly in the logarithm."""
        return self.log_uniform is not None or self.log_integer is not None

    @property
    def is_continuous(self) -> bool:
        """Whether fractions are drawn, so that hardly a value comes twice."""
        return self.log_uniform is not None or self.uniform is not None

    def bounds(self) -> tuple[int | float | str, ...]:
        """The values that bound this range: both ends, all choices, or the one fixed value."""
        return self.interval or self.choice or (() if self.fixed is None else (self.fixed,))

    def holds(self, value: float | str) -> bool:
        """Whether the setting can take a value."""
        if self.interval is None:
            return value in self.bounds()
        if isinstance(value, str) or not (self.is_continuous or value == int(value)):
            return False
        return self.interval[0] <= value <= self.interval[1]

    def applies(self, drawn: Point) -> bool:
        """Whether the setting is searched in a trial for which these values were drawn."""
        return all(drawn.get(parent) in values for parent, values in (self.when or {}).items())


_KINDS = tuple(name for name in Range.model_fields if name != "when")


def either(values: Sequence[float | str]) -> str:
    """The values in a sentence."""
    return " or ".join(str(value) for value in values)
