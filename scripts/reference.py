"""The recipe reference, from the types: `python -m scripts.reference > docs/recipe.md`."""

import sys
from collections.abc import Iterator
from typing import Any

from common.recipe import Recipe

INTRODUCTION = """\
# The recipe

Everything a recipe may hold, with defaults. Only `name`, `data.source` and `model.base` have to be given. Paths in a
recipe are relative to its file; paths in an override (`data.source=all.csv`) are relative to the current folder.
`tuneserve recipes --schema > recipe.schema.json` writes the JSON Schema, which editors complete and check by:

```yaml
# yaml-language-server: $schema=recipe.schema.json
```
"""


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
            below.append((f"{path}.{name}".lstrip("."), named))
        default = _default(name, field, section)
        yield f"| `{name}` | {kind} | {default} | {_one_line(field.get('description', ''))} |"
    yield ""
    for name, named in below:
        yield from _section(name, named, definitions)


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
    return str(field.get("type", "any"))


def _default(name: str, field: dict[str, Any], section: dict[str, Any]) -> str:
    if name in section.get("required", ()):
        return "required"
    value = field.get("default")
    if isinstance(value, dict):
        if set(value) == {"min", "max"}:
            return f"`{value['max']}`"
        return "see below"
    return "see below" if value is None and "default" not in field else f"`{value}`" if value not in (None, []) else "-"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
