"""The README's commands, run in their order (as far as it matters) by a newcomer whose machine holds nothing yet."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.ray_head import free_port
from common.recipe_file import load_recipe

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("tuneserve ")
]
RUNNABLE = [command for command in COMMANDS if "quickstart" in str(command) or len(command) == 2]
STAGES = (("check",), ("train",), ("sweep",), ("report", "promote"), ("deploy",), ("predict", "status"), ("down",))
"""What may run at once: nothing in a stage needs another's result, or the CPUs that another holds."""
WITH_REAL_DATA = [command for command in COMMANDS if command not in RUNNABLE and command[1] == "run"]


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment without any state, with a cluster on a port of its own; nothing of it is left afterwards."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TUNESERVE_", "RAY_"))}
    environment |= {"HOME": str(tmp_path), "TUNESERVE_STORAGE": str(tmp_path / "outputs"), "COLUMNS": "160"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    run(["tuneserve", "up", "--port", str(free_port())], environment)
    try:
        yield environment
    finally:
        run(["tuneserve", "down"], environment)


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
    return done.stderr


def test_every_command_of_the_readme_runs(newcomer: dict[str, str]) -> None:
    assert {command[1] for command in RUNNABLE} == {name for stage in STAGES for name in stage}
    for stage in STAGES:
        commands = [command for command in RUNNABLE if command[1] in stage]
        with ThreadPoolExecutor(len(commands)) as together:
            for command, said in zip(commands, together.map(lambda each: run(each, newcomer), commands), strict=True):
                assert "Traceback" not in said, command


@pytest.mark.parametrize("command", WITH_REAL_DATA, ids=lambda command: command[-1])
def test_commands_on_real_data_name_settings_that_there_are(command: list[str]) -> None:
    load_recipe(ROOT / command[2], command[3:])
