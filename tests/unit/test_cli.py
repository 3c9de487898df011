"""The command line's promises: one JSON object on stdout, one message and an exit code for every failure."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from common.errors import DataError, TrainingError
from scripts.cli import command, main


def run(*arguments: str) -> int:
    try:
        main(list(arguments), standalone_mode=False)
    except SystemExit as ending:
        return int(ending.code or 0)
    return 0


@pytest.fixture
def behave(request: pytest.FixtureRequest) -> Any:
    """Registers a command `probe` that does what the test says."""

    def register(action: Any, **settings: Any) -> None:
        command(name="probe", **settings)(action)
        request.addfinalizer(lambda: main.commands.pop("probe", None))

    return register


def test_json_is_the_only_thing_on_stdout(behave: Any, capfd: pytest.CaptureFixture[str]) -> None:
    def noisy() -> dict[str, Any]:
        sys.stdout.write("a library prints\n")
        os.write(1, b"so does C code\n")
        subprocess.run([sys.executable, "-c", "print('and a child')"], check=True)
        return {"answer": "ä"}

    behave(noisy)
    assert run("probe", "--json") == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"answer": "ä"}
    assert out.count("\n") == 1
    assert "a library prints" in err
    assert "so does C code" in err


def test_stdout_works_again_after_a_command(behave: Any, capfd: pytest.CaptureFixture[str]) -> None:
    behave(dict)
    run("probe", "--json")
    os.write(1, b"free again\n")
    assert capfd.readouterr().out == "{}\nfree again\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("x.csv: no column 'text'"), 2, "tuneserve: x.csv: no column 'text'"),
        (TrainingError("no trial finished"), 1, "tuneserve: no trial finished"),
        (ValueError("a defect\nin detail"), 1, "unexpected ValueError: a defect"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (ModuleNotFoundError("No module named 'torch'"), 1, "scripts/install"),
    ],
)
def test_a_failure_is_one_message_and_an_exit_code_never_a_traceback(
    error: Exception, code: int, said: str, behave: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing() -> dict[str, Any]:
        raise error

    behave(failing)
    assert run("probe", "--json") == code
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_says_how_to_resume(
    signum: signal.Signals, behave: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tuneserve", "probe", "recipe.yaml", "data.source=my data.csv"])
    monkeypatch.setattr(signal, "signal", signal.signal)
    before = signal.getsignal(signal.SIGTERM)

    def interrupted() -> dict[str, Any]:
        os.kill(os.getpid(), signum)
        signal.pause()
        return {}

    behave(interrupted, resume_with="probe --resume")
    try:
        assert run("probe") == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "continue with: tuneserve probe --resume recipe.yaml 'data.source=my data.csv'\n" in capfd.readouterr().err


def test_recipes_lists_what_ships_with_its_purpose(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("recipes", "--json") == 0
    shipped = json.loads(capfd.readouterr().out)["recipes"]
    assert shipped["quickstart"]["purpose"].startswith("The whole line")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_schema_is_json_schema_of_a_recipe_and_comes_once(
    options: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("recipes", "--schema", *options) == 0
    out, err = capfd.readouterr()
    assert "search" in json.loads(out)["properties"]
    assert err == ""


def test_a_wrong_recipe_ends_with_exit_code_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("check", "no-such-recipe.yaml") == 2
    assert "there is no such recipe" in capfd.readouterr().err


def test_every_command_of_the_design_is_there() -> None:
    expected = (
        "up down check train sweep report promote deploy run reproduce predict requests replay rollback submit jobs "
        "logs stop recipes status pool keys"
    )
    assert set(main.commands) == set(expected.split())
