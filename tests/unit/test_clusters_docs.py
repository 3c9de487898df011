"""The page about clusters names files that there are, and says how to get what the files leave open."""

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from common.cloud_cluster import _PLACEHOLDER
from common.cluster import PROJECT_ROOT
from scripts.cli import main

PAGE = PROJECT_ROOT / "docs" / "clusters.md"
TEXT = PAGE.read_text("utf-8")
FILES = [PROJECT_ROOT / "cluster.yaml", *sorted((PROJECT_ROOT / "docs" / "clusters").rglob("*.yaml"))]


def commands() -> list[list[str]]:
    texts = [TEXT, *(path.read_text("utf-8") for path in FILES)]
    found = [line for text in texts for line in re.findall(r"^[# ]*(tuneserve \S.*?)(?:  +#.*)?$", text, re.MULTILINE)]
    return [line.split() for line in dict.fromkeys(found)]


def test_every_link_of_the_page_leads_to_a_file() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT):
        assert "://" in target or (PAGE.parent / target).exists(), target


def test_every_file_for_a_cluster_is_on_the_page() -> None:
    for path in [*FILES, *(PROJECT_ROOT / "docs" / "clusters").glob("*Dockerfile")]:
        assert path.name in TEXT


def test_the_page_says_how_to_get_everything_that_cluster_yaml_leaves_open() -> None:
    document = yaml.safe_load((PROJECT_ROOT / "cluster.yaml").read_text("utf-8"))
    for placeholder in set(_PLACEHOLDER.findall(yaml.safe_dump(document))):
        assert re.search(rf"^\| `[^`]*{placeholder}` \|", TEXT, re.MULTILINE), placeholder


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_and_its_options_exist(command: list[str]) -> None:
    words = command[1 : command.index("--") if "--" in command else None]
    told = CliRunner().invoke(main, [words[0], "--help"]).output
    assert "No such command" not in told
    for option in (word for word in words if word.startswith("--")):
        assert option in told
    for word in words:
        if word.endswith((".yaml", ".yml")):
            assert Path(PROJECT_ROOT, word.removeprefix("/home/ray/tuneserve/")).exists()
