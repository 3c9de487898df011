"""Who may import whom: the halves meet in `common` and in the registry only."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.extras import OF_TRAINING

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "tune", "serve", "scripts")
FORBIDDEN = {"common": {"tune", "serve", "scripts"}, "tune": {"serve", "scripts"}, "serve": {"tune", "scripts"}}
HEAVY = ("torch", "transformers", "mlflow", "ray", "datasets")


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Every imported module, with the member where it is `from module import member`; also inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from ((node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_only_what_it_may(package):
    found = [
        (path.name, module)
        for path in sources(package)
        for module, _ in imports(path)
        if module.partition(".")[0] in FORBIDDEN[package]
    ]
    assert found == []


@pytest.mark.parametrize("package", PACKAGES)
def test_rays_namesakes_never_take_our_packages_names(package):
    found = [
        (path.name, module, member)
        for path in sources(package)
        for module, member in imports(path)
        if (module == "ray" and member in {"tune", "serve"}) or (member is None and module in {"tune", "serve"})
    ]
    assert found == []


def test_figures_keep_off_the_global_state_of_pyplot():
    modules = [module for package in PACKAGES for path in sources(package) for module, _ in imports(path)]
    assert "matplotlib.figure" in modules
    assert not {"matplotlib.pyplot", "pylab"}.intersection(modules)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_packages_init_holds_a_docstring_and_nothing_else(package):
    body = ast.parse((ROOT / package / "__init__.py").read_text("utf-8")).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    found = [file.parent.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("__init__.py")]
    assert sorted(listed) == sorted(str(folder).replace("/", ".") for folder in found)


@pytest.mark.parametrize("name", ["tune.py", "serve.py", "common.py"])
def test_no_script_is_called_like_a_package(name):
    assert not (ROOT / "scripts" / name).exists()


@pytest.mark.skipif(not (ROOT / "scripts" / "cli.py").exists(), reason="there is no command line yet")
def test_starting_the_command_line_loads_nothing_heavy():
    code = f"import sys, scripts.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_serving_half_and_its_commands_start_without_what_only_training_installs():
    modules = [str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in sources("serve")]
    modules = [name.removesuffix(".__init__") for name in modules if name != "serve.gpu"]  # of the extra `serve-gpu`
    modules += [f"scripts.{name}" for name in ("serving", "prediction", "replay", "logged_requests", "pooling", "keys")]
    code = f"import importlib, sys; sys.modules.update(dict.fromkeys({OF_TRAINING!r}))\n"
    code += f"for name in {modules!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
