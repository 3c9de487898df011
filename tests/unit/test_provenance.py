"""What a run says it was made from."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from common.provenance import DATA_TAG, ENVIRONMENT_TAG, RESOURCES_TAG, SOURCES_TAG, environment, provenance_tags

ROOT = Path(__file__).resolve().parents[2]


def test_the_environment_names_python_packages_and_our_commit() -> None:
    found = environment()
    assert found["python"] == platform.python_version()
    assert all(found[name] == version(name) for name in ("torch", "transformers", "numpy"))
    if (ROOT / ".git").exists():
        commit = subprocess.check_output(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], text=True).strip()
        assert found["tuneserve"].partition("+")[2].removesuffix("-dirty") == commit


def test_the_tags_hold_the_full_digest_and_a_source_only_where_it_has_a_version() -> None:
    tags = provenance_tags("ab" * 32, {}, {"num_workers": 2})
    assert tags[DATA_TAG] == "ab" * 32
    assert json.loads(tags[ENVIRONMENT_TAG]) == environment()
    assert json.loads(tags[RESOURCES_TAG]) == {"num_workers": 2}
    assert SOURCES_TAG not in tags
    assert json.loads(provenance_tags("d", {"a.csv": "dvc md5 1"}, {})[SOURCES_TAG]) == {"a.csv": "dvc md5 1"}
