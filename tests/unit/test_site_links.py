"""Following the links of a built site."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from common.errors import InputError
from scripts.site_links import follow, main


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "how").mkdir()
    (tmp_path / "icon.svg").write_text("<svg/>")
    (tmp_path / "index.html").write_text(
        '<h1 id="top"></h1><a href="how/">how</a><a href="#top">up</a><img src="icon.svg">'
    )
    (tmp_path / "how" / "index.html").write_text(
        '<a href="../index.html#top">home</a><a href="https://www.ray.io">Ray</a>'
    )
    return tmp_path


def test_a_site_whose_links_all_lead_somewhere_has_none_broken(site: Path) -> None:
    found = follow(site)

    assert (found.num_pages, found.num_links, found.broken) == (2, 4, ())


@pytest.mark.parametrize("target", ["gone.html", "../index.html#gone", "#gone", "../gone.svg"])
def test_a_link_that_leads_nowhere_is_told_with_its_page(site: Path, target: str) -> None:
    page = site / "how" / "index.html"
    page.write_text(page.read_text() + f'<a href="{target}">here</a>')

    assert follow(site).broken == (f"how/index.html: {target}",)
    assert CliRunner().invoke(main, [str(site)]).exit_code == 1


def test_links_to_other_sites_are_listed_and_not_asked(site: Path) -> None:
    listed = site / "elsewhere.txt"

    assert CliRunner().invoke(main, [str(site), "--elsewhere", str(listed)]).exit_code == 0
    assert listed.read_text() == "https://www.ray.io\n"


def test_a_folder_without_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no page of a site; build it first: scripts/docs"):
        follow(tmp_path)
