"""The notebook's cells."""

import json
from typing import Any

from common.cluster import PROJECT_ROOT

PATH = PROJECT_ROOT / "docs" / "notebook.ipynb"
ENDS = "end"
"""Tag of the cell that ends the cluster."""


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(PATH.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def source(*, without: str = ENDS) -> str:
    """The program that the cells make."""
    kept = [cell for cell in code_cells() if without not in cell["metadata"].get("tags", ())]
    return "\n\n".join("".join(cell["source"]) for cell in kept)
