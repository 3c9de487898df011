"""The documents name what there is: files, places in them, commands with their options, settings, recipes."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from common.cluster import PROJECT_ROOT
from common.recipe import Recipe
from common.recipe_file import _expected_type, _location, is_override, load_recipe
from scripts import command_reference
from scripts.cli import main

DOCS = PROJECT_ROOT / "docs"
PAGES = [PROJECT_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.rglob("*.md"))
TEXTS = {str(page.relative_to(PROJECT_ROOT)): page.read_text("utf-8") for page in PAGES}
MISTAKES = {"train.epoch"}
"""Shown with the messages that they get."""

COMING_FROM = sorted((DOCS / "coming-from").glob("*.md"))
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
INCLUDE = re.compile(r"^```{include} (\S+)$", re.MULTILINE)


def places(page: Path) -> set[str]:
    """What GitHub lets a link to a page's heading end with."""
    text = page.read_text("utf-8")
    for included in INCLUDE.findall(text):
        text += (page.parent / included).read_text("utf-8")
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[str, str]]:
    for name, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
            if "://" not in target:
                yield name, target


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_to_a_file_and_a_heading_in_it(name: str) -> None:
    for target in [target for page, target in links() if page == name]:
        address, _, place = target.partition("#")
        found = ((PROJECT_ROOT / name).parent / address).resolve() if address else PROJECT_ROOT / name
        assert found.exists(), target
        assert not place or place in places(found), target


def inline(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def in_blocks(text: str) -> list[str]:
    blocks = "\n".join(re.findall(r"^```(?:sh|text)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    return blocks.splitlines()


def commands(lines: list[str]) -> list[str]:
    """The calls of the command line among them."""
    return [match[1] for line in lines if (match := re.match(r"(?:\$ )?(tuneserve [a-z].*)", line))]


def parse(command: str) -> None:
    """Raises `click.UsageError` for what the command line does not know."""
    words = shlex.split(re.sub(r" [>|] .*|;$", "", command), comments=True)[1:]
    words = ["1" if word == "N" else word for word in words]
    group: click.Command = main
    while isinstance(group, click.Group) and words:
        named, *words = words
        names = named.split("|")
        assert set(names) <= set(group.commands), f"{command!r}: there is no command {named!r}"
        group = group.commands[names[0]]
    if words and not {"--help", "[OPTIONS]", "..."}.intersection(words):
        group.make_context(group.name, words)


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_of_the_documents_is_one_that_the_command_line_takes(name: str) -> None:
    whole = commands(in_blocks(TEXTS[name]))
    for command in whole + commands(inline(TEXTS[name])):
        try:
            parse(command)
        except click.UsageError as error:
            leaves_out = isinstance(error, click.MissingParameter | click.BadOptionUsage)
            if command in whole or not leaves_out:  # a sentence may leave out what is given
                pytest.fail(f"{command!r}: {error.format_message()}")


def settings(text: str) -> set[str]:
    """Settings by their dotted names, given to a command or told in a sentence."""
    called = commands(in_blocks(text) + inline(text))
    words = [word for command in called for word in shlex.split(command, comments=True) if is_override(word)]
    words += [word for code in inline(text) if is_override(code) for word in code.split() if is_override(word)]
    words += [
        code for code in inline(text) if re.fullmatch(rf"(?:{'|'.join(Recipe.model_fields)})(?:\.[a-z_]+)+", code)
    ]
    named = {word.partition("=")[0] for word in words}
    return {setting for setting in named if "." in setting and not is_module(setting)}


def is_module(dotted: str) -> bool:
    return (PROJECT_ROOT / f"{dotted.replace('.', '/')}.py").exists() or dotted.endswith((".py", ".md", ".yaml"))


def is_setting(dotted: str) -> bool:
    return _expected_type(_location(dotted))[1] is None


@pytest.mark.parametrize("name", TEXTS)
def test_every_setting_that_the_documents_name_exists(name: str) -> None:
    missing = {setting for setting in settings(TEXTS[name]) - MISTAKES if not is_setting(setting)}
    assert missing == set()


@pytest.mark.parametrize("name", TEXTS)
def test_every_recipe_that_the_documents_name_ships(name: str) -> None:
    named = set(re.findall(r"recipes/(\w+)\.yaml", TEXTS[name]))
    assert {recipe for recipe in named if not (PROJECT_ROOT / "recipes" / f"{recipe}.yaml").exists()} == set()


def yaml_blocks() -> list[str]:
    found = [
        block
        for text in TEXTS.values()
        for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]
    return [block for block in found if yaml.safe_load(block)]


@pytest.mark.parametrize("block", yaml_blocks())
def test_every_piece_of_a_recipe_is_valid(block: str) -> None:
    minimal = {"name": "a", "data": {"source": "a.csv"}, "model": {"base": "a"}}
    Recipe.model_validate(minimal | yaml.safe_load(block))


def python_names(text: str) -> Iterator[tuple[str, str]]:
    """What the page's Python takes from our modules, and the functions that it names in full: module and name."""
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (PROJECT_ROOT / str(node.module).partition(".")[0]).is_dir():
                yield from ((str(node.module), alias.name) for alias in node.names)
    for code in inline(text):
        if match := re.match(r"((?:common|tune|serve|scripts)(?:\.\w+)*)\.(\w+)\(", code):
            yield match[1], match[2]


@pytest.mark.parametrize("name", TEXTS)
def test_every_function_of_ours_that_the_documents_name_exists(name: str) -> None:
    for module, function in python_names(TEXTS[name]):
        body = ast.parse((PROJECT_ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")).body
        assert function in {getattr(node, "name", None) for node in body}, f"{module}.{function}"


@pytest.mark.parametrize("page", COMING_FROM, ids=lambda page: page.stem)
def test_whoever_knows_another_way_finds_its_page_from_the_readme_in_one_click(page: Path) -> None:
    assert f"]({page.relative_to(PROJECT_ROOT)})" in TEXTS["README.md"]


@pytest.mark.parametrize("page", COMING_FROM, ids=lambda page: page.stem)
def test_such_a_page_calls_models_and_endpoints_by_the_name_in_its_recipe(page: Path) -> None:
    text = page.read_text("utf-8")
    (stem,) = set(re.findall(r"recipes/(\w+)\.yaml", text))
    recipe = PROJECT_ROOT / "recipes" / f"{stem}.yaml"
    told = "\n".join(in_blocks(text) + inline(text))
    names = re.findall(
        r"/([a-z-]+)/(?:classify|invocations)|models:/([a-z-]+)@|(?:rollback|report|requests) ([a-z-]+)", told
    )
    assert {name for found in names for name in found if name} == {load_recipe(recipe).name}


def test_the_page_of_commands_is_what_the_command_line_says() -> None:
    written = TEXTS["docs/commands.md"]
    assert written == command_reference.reference(), (
        "write it anew: python -m scripts.command_reference > docs/commands.md"
    )
