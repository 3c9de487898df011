"""The README's commands, run in their order (as far as it matters) by a newcomer whose machine holds nothing yet."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.ray_head import free_port
from common.recipe_file import load_recipe
from tests.warm_command import Command

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("tuneserve ")
]
RUNNABLE = [c for c in COMMANDS if ("quickstart" in str(c) and c[1] != "submit") or len(c) == 2]
STAGES = (("check",), ("train",), ("sweep",), ("report", "promote"), ("deploy",), ("predict", "status"), ("down",))
"""What may run at once: nothing in a stage needs another's result, or the CPUs that another holds."""
WITH_REAL_DATA = [command for command in COMMANDS if command not in RUNNABLE and command[1] == "run"]


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment without any state, with a cluster on a port of its own; nothing of it is left afterwards."""
    for name in os.environ:
        if name.startswith(("TUNESERVE_", "RAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TUNESERVE_STORAGE", str(tmp_path / "outputs"))
    installed("up", "--port", str(free_port()))
    try:
        yield
    finally:
        installed("down")


def installed(*arguments: str) -> None:
    """Runs the command as it is installed."""
    command = [Path(sys.executable).with_name("tuneserve"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stderr}"


def test_every_command_of_the_readme_runs(newcomer: None) -> None:
    assert {command[1] for command in RUNNABLE} == {name for stage in STAGES for name in stage}
    for stage in STAGES:
        commands = [command for command in RUNNABLE if command[1] in stage]
        for command, running in [(command, Command(*command[1:])) for command in commands]:
            _, said = running.communicate()
            assert running.returncode == 0, f"{shlex.join(command)}\n{said}"
            assert "Traceback" not in said, command


@pytest.mark.parametrize("command", WITH_REAL_DATA, ids=lambda command: command[-1])
def test_commands_on_real_data_name_settings_that_there_are(command: list[str]) -> None:
    load_recipe(ROOT / command[2], command[3:])
