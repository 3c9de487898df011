"""The recipe reference."""

from pathlib import Path

from scripts.reference import reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipe.md"


def test_the_page_is_what_the_types_say() -> None:
    assert PAGE.read_text() == reference(), "write it anew: python -m scripts.reference > docs/recipe.md"
