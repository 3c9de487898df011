"""The Grafana dashboard and the operator's guide name exactly the figures that the gateway exports."""

import json
import re
from pathlib import Path

from ray.util.metrics import Counter, Histogram

from serve.metrics import GatewayMetrics

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAME = re.compile(r"ray_tuneserve_\w+")


def exported() -> dict[str, set[str]]:
    """What Ray makes of each figure, without `_sum`: Ray adds up the middles of the buckets and not the values."""
    endings = {Counter: ["_total"], Histogram: ["_bucket", "_count"]}
    figures = {f"ray_{metric.info['name']}": type(metric) for metric in GatewayMetrics().all()}
    return {figure: {figure + ending for ending in endings.get(kind, [""])} for figure, kind in figures.items()}


def queries() -> list[str]:
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text("utf-8"))
    asked = [variable["query"] for variable in dashboard["templating"]["list"]]
    return asked + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_nothing_that_is_not_exported_and_shows_everything_that_is() -> None:
    asked = {name for query in queries() for name in NAME.findall(query)}

    assert asked <= set.union(*exported().values())
    assert all(asked & names for names in exported().values())


def test_the_dashboard_splits_by_tags_that_there_are() -> None:
    tags = {tag for metric in GatewayMetrics().all() for tag in metric.info["tag_keys"]} | {"le"}

    grouped = {tag for query in queries() for by in re.findall(r"by \(([^)]*)\)", query) for tag in by.split(", ")}
    assert grouped <= tags
    assert {"endpoint", "version", "status"} <= grouped


def test_the_guide_names_every_figure() -> None:
    named = set(NAME.findall((DOCS / "operating.md").read_text("utf-8")))

    assert named <= set.union(*exported().values()) | exported().keys()
    assert all(named & {figure, *names} for figure, names in exported().items())
