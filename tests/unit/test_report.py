"""The report's page: complete, standing alone, and harmless whatever the data holds."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from optuna.trial import TrialState

from tests.stored_sweeps import RECIPE, Trained, asha_trials, sketch, stored, with_checkpoint
from tests.training_data import LABELS, prepared_data, write_base_model, write_data
from tune import report as report_module
from tune.report import Report, make_report

FIGURES = (
    "optimisation_history",
    "learning_curves",
    "parallel_coordinates",
    "parameter_importance",
    "cost",
    "confusion_matrix",
)
HOSTILE = "<script>alert('1')</script>"
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """What a browser makes of a page: its elements, what they load, its text by section and its table rows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.loaded: list[str] = []
        self.alt: dict[str, str] = {}
        self.text: dict[str, str] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self._section = "header"
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        given = {name: value or "" for name, value in attributes}
        self._section = given["id"] if tag == "section" else self._section
        self.loaded += [given[name] for name in ("src", "srcset", "href", "action", "data", "poster") if name in given]
        if tag == "img":
            self.alt[self._section] = given["alt"]
        if tag == "tr":
            self.rows.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self._in_cell = True
            self.rows[self._section][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text[self._section] = self.text.get(self._section, "") + data
        if self._in_cell:
            self.rows[self._section][-1][-1] += data


def read(report: Report) -> Page:
    return Page(report.page)


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "render", sketch)


@pytest.fixture(scope="module")
def winners_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Prepared data whose texts and one of whose labels are hostile, and a checkpoint for them."""
    folder = tmp_path_factory.mktemp("winner")
    labels = (HOSTILE, *LABELS[1:])
    data = write_data(folder / "data")
    prepared = replace(prepared_data(data, folder / "base"), labels=labels)
    (data / "prepared.json").write_text(json.dumps(asdict(prepared)))
    with pa.OSFile(str(data / "validation.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    texts = pa.array([f"{HOSTILE} {row}" for row in range(len(table))])
    table = table.set_column(table.schema.get_field_index("text"), "text", texts)
    with pa.OSFile(str(data / "validation.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=16)
    return data, write_base_model(folder / "checkpoint", labels=labels)


@pytest.fixture(scope="module")
def full(winners_data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of a sweep that has everything."""
    data, checkpoint = winners_data
    trials = with_checkpoint(asha_trials(), checkpoint)
    failed = Trained((), TrialState.FAIL, failure=f"{HOSTILE} in the log")
    return make_report(stored(tmp_path_factory.mktemp("full"), [*trials, failed], prepared_uri=str(data)))


def test_every_figure_is_on_the_page_and_a_png(full: Report) -> None:
    assert full.missing == {}
    assert tuple(full.pngs) == FIGURES
    assert all(png.startswith(PNG) for png in full.pngs.values())
    page = read(full)
    assert set(page.alt) == set(FIGURES)
    assert all(page.alt.values())
    assert page.elements.count("source") == 3 * len(FIGURES)  # dark, and both for a phone


def test_the_page_loads_nothing(full: Report) -> None:
    page = read(full)
    assert not {"script", "iframe", "object", "embed"} & set(page.elements)
    assert all(loaded.startswith(("data:", "#")) for loaded in page.loaded)
    assert "@import" not in full.page
    assert "url(" not in full.page
    for svg in drawings(page):
        assert all(target.startswith(("#", "data:")) for target in re.findall(r'href="([^"]*)"', svg))


def drawings(page: Page) -> Iterator[str]:
    for loaded in page.loaded:
        if loaded.startswith("data:image/svg+xml;base64,"):
            yield base64.b64decode(loaded.partition(",")[2]).decode()


def test_a_link_on_the_page_leads_somewhere(full: Report) -> None:
    targets = {loaded[1:] for loaded in read(full).loaded if loaded.startswith("#") and len(loaded) > 1}
    assert len(targets) > len(FIGURES)
    assert all(f'id="{target}"' in full.page for target in targets)


def test_what_comes_from_the_data_is_text_and_never_markup(full: Report) -> None:
    page = read(full)
    assert "script" not in page.elements
    assert HOSTILE in page.text["mistakes"]
    assert HOSTILE in page.text["confusion_matrix"]
    assert HOSTILE in page.text["leaderboard"]  # the reason of a failure
    assert HOSTILE in page.text["recipe"]
    assert not any("<script" in svg for svg in drawings(page))


def test_mistakes_are_ten_with_text_both_labels_and_probability_the_surest_first(full: Report) -> None:
    header, *rows = read(full).rows["mistakes"]
    assert header == ["text", "given", "predicted", "probability"]
    assert len(rows) == 10
    assert all(given != predicted for _, given, predicted, _ in rows)
    assert [row[3] for row in rows] == sorted((row[3] for row in rows), reverse=True)


def test_the_leaderboard_holds_every_trial_the_best_first(full: Report) -> None:
    header, *rows = read(full).rows["leaderboard"]
    assert header[:3] == ["trial", "state", "accuracy"]
    assert {*RECIPE.search.space, "seconds", "epoch"} <= set(header)
    assert len(rows) == 15
    values = [float(row[2]) for row in rows[:-1]]
    assert values == sorted(values, reverse=True)
    assert rows[-1][1] == f"failed: {HOSTILE} in the log"


def test_the_page_says_how_importance_was_computed_and_where_numbers_come_from(full: Report) -> None:
    page = read(full)
    assert "fANOVA of 14 trials after epoch 1" in page.text["parameter_importance"]
    assert "study.journal" in page.text["origins"]
    assert "run-" in page.text["origins"]
    assert ["validation rows", "31"] in page.rows["recipe"]
    assert "learning_rate:" in page.text["recipe"]


@pytest.mark.usefixtures("sketched")
def test_an_unfinished_sweep_shows_the_best_so_far(tmp_path: Path) -> None:
    report = make_report(
        stored(tmp_path, [Trained((0.5,)), Trained((0.7, 0.6), TrialState.RUNNING), Trained((), TrialState.RUNNING)])
    )
    page = read(report)
    assert "unfinished" in page.text["header"]
    assert "trial 1, the best so far" in page.text["header"]
    assert "The best so far is trial 1 after epoch 1" in page.text["leaderboard"]
    assert "winner" not in page.text["leaderboard"]


@pytest.mark.usefixtures("sketched")
def test_one_trial_is_enough(tmp_path: Path) -> None:
    report = make_report(stored(tmp_path, [Trained((0.5,))]))
    assert set(report.pngs) == set(FIGURES) - {"parameter_importance", "confusion_matrix"}
    assert report.missing["parameter_importance"].startswith("too few trials: 1 have ended")


@pytest.mark.usefixtures("sketched")
def test_a_sweep_whose_trials_all_failed_shows_how(tmp_path: Path) -> None:
    diverged = Trained((0.5, 0.2), TrialState.FAIL, failure="the loss is nan", checkpoint=None)
    report = make_report(stored(tmp_path, [diverged, Trained((), TrialState.FAIL, failure="out of memory")]))
    assert set(report.pngs) == {"optimisation_history", "learning_curves"}
    page = read(report)
    assert "No trial can be promoted: all of them failed" in page.text["leaderboard"]
    assert "out of memory" in page.text["leaderboard"]
    assert "there is no winner" in page.text["mistakes"]


@pytest.mark.usefixtures("sketched")
def test_a_winner_whose_checkpoint_is_gone_is_reported_without_its_mistakes(
    winners_data: tuple[Path, Path], tmp_path: Path
) -> None:
    trials = with_checkpoint(asha_trials(), tmp_path / "gone")
    report = make_report(stored(tmp_path, trials, prepared_uri=str(winners_data[0])))
    assert set(report.missing) == {"confusion_matrix"}
    page = read(report)
    for section in ("confusion_matrix", "mistakes"):
        assert f"{tmp_path}/gone is not a checkpoint" in page.text[section]
    assert "The best so far is trial" in page.text["leaderboard"]


@pytest.mark.usefixtures("sketched")
def test_data_that_is_gone_is_said(tmp_path: Path) -> None:
    page = read(make_report(stored(tmp_path, [Trained((0.5,))])))
    assert "/gone/data is not a prepared data folder" in page.text["recipe"]


@pytest.mark.parametrize("metric", ["loss", "macro_f1"])
@pytest.mark.usefixtures("sketched")
def test_the_metric_of_the_recipe_is_what_the_page_is_about(metric: str, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"search": RECIPE.search.model_copy(update={"metric": metric})})
    page = read(make_report(stored(tmp_path, [Trained((0.5,)), Trained((0.25,))], recipe=recipe)))
    best = "0.2500" if metric == "loss" else "0.5000"
    assert f"validation {metric}{best}" in page.text["header"]
    header, first, _ = page.rows["leaderboard"]
    assert (header[2], first[2]) == (metric, best)
