"""A job small enough for a test: some of the generated headlines and the small BERT, trained for two epochs."""

from pathlib import Path

import pyarrow.csv

from common.builtin import finance_headlines
from scripts.job import Job

RECIPE = """
name: {name}
data: {{source: headlines.csv, split: {{validation: 0.2, test: 0.2}}}}
model: {{base: "builtin:tiny_bert", max_length: 32}}
train: {{epochs: 2}}
search:
  num_trials: 3
  space:
    learning_rate: {{log_uniform: [5.0e-4, 3.0e-3]}}
    batch_size: {{choice: [16, 32]}}
serve: {{downscale_to_zero_delay_s: 2}}
"""


def write_recipe(folder: Path, name: str = "small", num_rows: int = 400) -> Path:
    """A recipe and its data in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = finance_headlines().slice(0, num_rows)
    pyarrow.csv.write_csv(rows, folder / "headlines.csv")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(name=name))
    return path


def small_job(folder: Path, *overrides: str, name: str = "small") -> Job:
    """That recipe with a storage and a tracking database of its own in `folder`."""
    storage = folder / "storage"
    return Job.load(str(write_recipe(folder, name)), overrides, str(storage), f"sqlite:///{storage}/mlflow.db")
