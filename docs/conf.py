"""How Sphinx makes the documentation site of these pages: `scripts/docs`."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

project = "tuneserve"
author = "the tuneserve authors"
copyright = f"{author}; Apache-2.0"  # noqa: A001 - Sphinx reads this name
release = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
nitpicky = True
myst_heading_anchors = 3  # by GitHub's rule, so that a link with `#...` works in both places

linkcheck_ignore = [r"http://127\.0\.0\.1"]
linkcheck_timeout = 20  # seconds

html_theme = "furo"
html_title = "tuneserve"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_favicon = str(ROOT / "serve" / "playground" / "icon.svg")
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#3a55d9", "color-brand-content": "#3a55d9"},
    "dark_css_variables": {"color-brand-primary": "#93a7ff", "color-brand-content": "#93a7ff"},
}
pygments_style = "default"
pygments_dark_style = "github-dark"
