"""The recipe reference, from the types: `python -m scripts.reference > docs/recipe.md`."""

import sys
from collections.abc import Iterator
from typing import Any

from common.recipe import Recipe

INTRODUCTION = """\
# Recipe reference

Everything a recipe may hold, with defaults, from the types that read it; [writing a recipe](writing-recipes.md) has the
common cases. Only `name`, `data.source` and `model.base` have to be given.
"""

_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
"""JSON Schema's words for the ends of a range, and ours."""


def reference() -> str:
    """The page `docs/recipe.md`."""
    schema = Recipe.model_json_schema()
    return "\n".join([INTRODUCTION, *_section("", schema, schema["$defs"])]).rstrip() + "\n"


def _section(path: str, section: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    """The settings of a section as a table, then the sections below it."""
    yield f"## {f'`{path}`' if path else 'Top level'}\n"
    yield f"{_one_line(section['description'])}\n"
    yield "| setting | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    below = []
    for name, field in section["properties"].items():
        kind = _type(field)
        named = definitions.get(kind.removeprefix("list of ").removeprefix("mapping to "))
        if named:
            place = f"{path}.{name}".lstrip(".")
            below.append((place, named))
            kind = _linked(kind, place)
        meaning = _one_line(field.get("description") or (named or {}).get("description", ""))
        yield f"| `{name}` | {kind} | {_default(name, field, section)} | {meaning} |"
    yield ""
    for name, named in below:
        yield from _section(name, named, definitions)


def _linked(kind: str, place: str) -> str:
    """The type as a link to the table of its settings, by the place that GitHub gives a heading."""
    *words, name = kind.split()
    return " ".join([*words, f"[{name}](#{place.replace('.', '')})"])


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rsplit("/", 1)[-1]
    if "anyOf" in field:
        kinds = [_type(option) for option in field["anyOf"]]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        if "prefixItems" in field:
            return "[low, high]"
        return f"list of {_type(field['items'])}"
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return f"mapping to {_type(inner)}" if inner else "`{min, max}`"
    bounds = [f"{words} {field[bound]:,.12g}" for bound, words in _BOUNDS.items() if bound in field]
    return f"{field.get('type', 'any')} {', '.join(bounds)}".rstrip()


def _default(name: str, field: dict[str, Any], section: dict[str, Any]) -> str:
    if name in section.get("required", ()):
        return "required"
    value = field.get("default")
    if isinstance(value, dict) and set(value) == {"min", "max"}:
        return f"`{value['max']}`"
    if isinstance(value, dict) or (value is None and "default" not in field):
        return "see below"
    return f"`{value}`" if value not in (None, []) else "-"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
