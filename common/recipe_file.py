"""Reading and writing recipes: YAML with `key=value` overrides, every mistake in one report.

Paths in the file are relative to the file; paths in an override are relative to the current folder.
"""

import difflib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from common.databricks import DATABRICKS
from common.errors import RecipeError
from common.recipe import BUILTIN, Recipe
from common.tracking_address import without_password

Location = tuple[str | int, ...]

_PATH_FIELDS: tuple[Location, ...] = (
    ("storage",),
    ("data", "source"),
    ("data", "validation_source"),
    ("data", "test_source"),
    ("model", "base"),
    ("tracking", "mlflow_uri"),
)
_DATA_SUFFIXES = (".csv", ".parquet", ".jsonl", ".json", ".tsv", ".gz")
_OVERRIDE = re.compile(rf"(?:{'|'.join(Recipe.model_fields)}|[a-z_]+(?=\.))(?:\.\w+)*=")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with tuneserve, by name."""
    folder = Path(__file__).resolve().parent.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def is_override(argument: str) -> bool:
    """Whether an argument is meant as `section.key=value`, though perhaps misspelt, and not as a text or a file."""
    return _OVERRIDE.match(argument) is not None


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file with `section.key=value` overrides applied; paths come out absolute.

    Raises:
        RecipeError: with one line for every mistake of the file and of the overrides.
    """
    file = Path(path).expanduser()
    text = _read(file)
    document, lines, problems = _parse(text, str(path))
    origins: dict[Location, str] = {}
    for override in overrides:
        problems += _apply_override(document, override, origins)
    _resolve_paths(document, file.resolve().parent, Path.cwd(), origins)
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        problems += [_describe(dict(item), str(path), lines, origins) for item in error.errors()]
        raise RecipeError(str(path), problems) from None
    if problems:
        raise RecipeError(str(path), problems)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that `load_recipe` reads back to the same recipe."""
    document = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        names = ", ".join(str(path) for path in shipped_recipes().values())
        raise RecipeError(str(file), [f"there is no such recipe; these ship with tuneserve: {names}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(str(file), [f"cannot be read as UTF-8 text: {error}"]) from None


def _parse(text: str, source: str) -> tuple[dict[str, Any], dict[Location, int], list[str]]:
    """The document, the line on which each key stands, and the keys that are given twice."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise RecipeError(source, [f"{where}not valid YAML: {error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise RecipeError(source, [f"not valid YAML: {error}"]) from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"a {type(document).__name__}"
        raise RecipeError(source, [f"holds {found}; a recipe is a mapping that starts with `name: ...`"])
    lines: dict[Location, int] = {}
    problems = []
    for location, number in _walk(root, ()):
        if location in lines:
            problems.append(f"line {number}: {_dotted(location)} is given twice (first on line {lines[location]})")
        lines.setdefault(location, number)
    return document, lines, problems


def _walk(node: yaml.Node | None, location: Location) -> Iterator[tuple[Location, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*location, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _walk(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*location, index), value.start_mark.line + 1
            yield from _walk(value, (*location, index))


def _apply_override(document: dict[str, Any], override: str, origins: dict[Location, str]) -> list[str]:
    """Sets one `section.key=value` in the document; returns what is wrong with it."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return [f"override {override!r}: write it as section.key=value, for example train.epochs=1"]
    location = _location(key)
    expected, problem = _expected_type(location)
    if problem:
        return [f"override {override!r}: {problem}"]
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    takes_text_alone = set(_union_members(expected)) <= {str, types.NoneType}
    if takes_text_alone and value is not None and not isinstance(value, str):
        value = text  # a label column called `0` or `yes` is a name, not a number or a truth value
    target: Any = document
    for part in location[:-1]:
        if not isinstance(target.get(part), dict):
            target[part] = {}
        target = target[part]
    named = next((key for key in target if str(key) == location[-1]), location[-1])  # a file may have the number 0
    target[named] = value
    origins[location] = override
    return []


def _location(key: str) -> tuple[str, ...]:
    """The places of a dotted key; a searched setting of the adapters (`lora.r`) is one place, as in a file."""
    before, lora, after = key.partition("search.space.lora.")
    if lora and not before:
        name, *below = after.split(".")
        return ("search", "space", f"lora.{name}", *below)
    return tuple(key.split("."))


def _expected_type(location: tuple[str, ...]) -> tuple[Any, str | None]:
    """The type of the setting at a dotted key, or what is wrong with the key."""
    current: Any = Recipe
    for depth, part in enumerate(location):
        members = _union_members(current)
        model = next((m for m in members if isinstance(m, type) and issubclass(m, BaseModel)), None)
        mapping = next((m for m in members if typing.get_origin(m) is dict), None)
        if model is not None:
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            if part not in fields:
                return None, _unknown(".".join(location[:depth]), part, list(fields))
            current = fields[part].annotation
        elif mapping is not None:
            current = typing.get_args(mapping)[1]
        else:
            return None, f"{'.'.join(location[:depth])} is a single value and holds no {part!r}"
    return current, None


def _union_members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _union_members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(member for option in typing.get_args(annotation) for member in _union_members(option))
    return (annotation,)


def _unknown(section: str, key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    where = f"{section} has no setting" if section else "there is no section"
    return f"{where} {key!r}; {hint}known: {', '.join(known)}"


def _resolve_paths(document: dict[str, Any], file_folder: Path, here: Path, origins: dict[Location, str]) -> None:
    for location in _PATH_FIELDS:
        section: Any = document
        for part in location[:-1]:
            section = section.get(part) if isinstance(section, dict) else None
        value = section.get(location[-1]) if isinstance(section, dict) else None
        if isinstance(value, str) and value and value != DATABRICKS:
            folder = here if location in origins else file_folder
            section[location[-1]] = _absolute(value, folder, always=location == ("storage",))


def _absolute(value: str, folder: Path, *, always: bool) -> str:
    """A path made absolute; URLs, built-in keywords and Hub ids as they are."""
    sqlite = "sqlite:///"
    if value.startswith(sqlite):
        return sqlite + str(folder / value.removeprefix(sqlite))
    if value.startswith(BUILTIN) or _URL.match(value):
        return value
    candidate = (folder / Path(value).expanduser()).resolve()
    path_like = value.startswith((".", "/", "~")) or value.lower().endswith(_DATA_SUFFIXES)
    is_there = candidate.exists() or Path(f"{candidate}.dvc").exists()  # or DVC will bring it
    return str(candidate) if always or path_like or is_there else value


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _describe(error: dict[str, Any], source: str, lines: dict[Location, int], origins: dict[Location, str]) -> str:
    """One line for one validation error: where it stands, what was given, what is allowed."""
    # Pydantic names a dictionary's key "[key]" and the union member it tried; neither stands in the file.
    # A setting that is not known may be called so all the same.
    is_name = error["type"] == "extra_forbidden"
    location: Location = tuple(part for part in error["loc"] if is_name or part != "[key]")
    where = _position(location, lines, origins)
    name = _dotted(location) or source
    if error["type"] == "extra_forbidden":
        parent = location[:-1]
        _, problem = _expected_type(tuple(str(part) for part in location))
        return f"{where}{problem or f'{_dotted(parent)} has no setting {location[-1]!r}'}"
    if error["type"] == "missing":
        return f"{where}{name} is required and not given"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = error["input"]
    shown = "" if isinstance(given, BaseModel | dict) else f" (given: {given!r})"
    return without_password(f"{where}{name}: {message}{shown}")


def _position(location: Location, lines: dict[Location, int], origins: dict[Location, str]) -> str:
    """Where a setting was given: on a line of the file, or in an override of it or of something in it."""
    below = next((override for place, override in origins.items() if place[: len(location)] == location), None)
    if below:
        return f"override {below!r}: "
    for end in range(len(location), 0, -1):
        prefix = location[:end]
        if prefix in origins:
            return f"override {origins[prefix]!r}: "
        if prefix in lines:
            return f"line {lines[prefix]}: "
    return ""
