"""The shell scripts that a newcomer runs first, in a folder of their own with a Python that only takes notes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from common.cluster import PROJECT_ROOT

POSIX_TOOLS = ("bash", "cat", "cksum", "dirname", "mkdir", "cp", "rm")
"""What the scripts may call: macOS has neither sha256sum nor flock."""

PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$NOTES"
[[ "$*" == "-m venv .venv" ]] && mkdir -p .venv/bin && cp "$0" .venv/bin/python
exit 0
"""
UNIT_TESTS_FAIL = """#!/usr/bin/env bash
[[ "$*" != *tests/unit* ]]
"""
WITHOUT_PIP = """#!/usr/bin/env bash
[[ "$*" != *pip* ]]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in POSIX_TOOLS:
        (tools / name).symlink_to(str(shutil.which(name)))
    executable(tools / "python3", PYTHON)
    root = tmp_path / "project"
    (root / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "scripts/install", "scripts/test"):
        shutil.copy(PROJECT_ROOT / name, root / name)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.delenv("PYTHON", raising=False)
    return root


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("/usr/bin/env bash", str(shutil.which("bash"))))
    path.chmod(0o755)


def run(root: Path, *command: str) -> list[str]:
    """What Python was asked to do."""
    notes = Path(os.environ["NOTES"])
    notes.write_text("")
    subprocess.run(["bash", *command], cwd=root, check=True, capture_output=True)
    return notes.read_text().splitlines()


def test_install_makes_the_environment_once_and_again_when_what_is_locked_changes(project: Path) -> None:
    asked = run(project, "scripts/install")
    assert asked.count("-m venv .venv") == 1
    assert any("torch==2.13.0" in line for line in asked)
    assert not any("pip" in line for line in run(project, "scripts/install"))
    (project / "constraints.txt").write_text("changed\n")
    again = run(project, "scripts/install")
    assert any("--constraint constraints.txt --editable" in line for line in again)
    assert "-m venv .venv" not in again


def test_an_environment_without_pip_is_made_anew(project: Path) -> None:
    executable(project / ".venv" / "bin" / "python", WITHOUT_PIP)
    assert "-m venv .venv" in run(project, "scripts/install")


@pytest.mark.parametrize("is_there", [False, True])
def test_a_chromium_for_the_page_is_installed_where_there_is_none_and_root_may(project: Path, is_there: bool) -> None:
    executable(project.parent / "tools" / "apt-get", '#!/usr/bin/env bash\necho "apt-get $*" >>"$NOTES"\n')
    if is_there:
        executable(project.parent / "tools" / "chromium", "#!/usr/bin/env bash\n")

    asked = [line for line in run(project, "scripts/test") if line.startswith("apt-get")]

    install = ["apt-get update", "apt-get install --yes --no-install-recommends chromium"]
    assert asked == (install if os.geteuid() == 0 and not is_there else [])


def test_without_a_chromium_the_other_tests_run_all_the_same(project: Path) -> None:
    executable(project.parent / "tools" / "apt-get", "#!/usr/bin/env bash\nexit 100\n")

    assert run(project, "scripts/test")[-1].endswith("tests/integration")


@pytest.mark.parametrize(("arguments", "chosen"), [((), "-m not slow "), (("--all",), "")])
def test_the_unit_tests_run_in_two_processes_and_then_the_integration_tests_in_one(
    project: Path, arguments: tuple[str, ...], chosen: str
) -> None:
    units = f"-m pytest {chosen}tests/unit --numprocesses 2 --dist loadfile"
    assert run(project, "scripts/test", *arguments)[-2:] == [units, f"-m pytest {chosen}tests/integration"]


@pytest.mark.parametrize(("arguments", "handed_on"), [(("--all", "-k", "a b"), "-k a b"), (("-x",), "-m not slow -x")])
def test_the_arguments_of_test_go_to_one_pytest(project: Path, arguments: tuple[str, ...], handed_on: str) -> None:
    asked = run(project, "scripts/test", *arguments)
    assert [line for line in asked if "-m pytest" in line] == [f"-m pytest {handed_on}"]


def test_integration_tests_do_not_hide_a_failed_unit_test(project: Path) -> None:
    run(project, "scripts/install")
    executable(project / ".venv" / "bin" / "python", UNIT_TESTS_FAIL)
    ended = subprocess.run(["bash", "scripts/test"], cwd=project, check=False, capture_output=True)
    assert ended.returncode == 1
