"""Follows every link of a built documentation site: `python -m scripts.site_links docs/_build/html`."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import click

from common.errors import InputError, TuneserveError

LINKS = {"a": "href", "link": "href", "img": "src", "script": "src"}


@dataclass
class _Page(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    targets: list[str] = field(default_factory=list)
    places: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes a link's target and an element's id."""
        given = dict(attrs)
        if target := given.get(LINKS.get(tag, "")):
            self.targets.append(target)
        if place := given.get("id"):
            self.places.add(place)


@dataclass(frozen=True)
class Found:
    """What following a site's links told."""

    num_pages: int
    num_links: int
    """Links within the site."""
    broken: tuple[str, ...]
    """Each as `page: target`."""
    elsewhere: tuple[str, ...]
    """Links to other sites, each once."""


def follow(site: Path) -> Found:
    """Follows the links of all pages below a folder, `#places` included; asks no other site.

    Raises:
        InputError: when the folder holds no page.
    """
    pages = {path: _read(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        raise InputError(f"{site} holds no page of a site; build it first: scripts/docs")
    links = [(path, target) for path, page in pages.items() for target in page.targets]
    elsewhere = {target for _, target in links if _is_elsewhere(target)}
    inside = [(path, target) for path, target in links if target not in elsewhere]
    return Found(len(pages), len(inside), tuple(_broken(site, pages, inside)), tuple(sorted(elsewhere)))


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text("utf-8"))
    return page


def _is_elsewhere(target: str) -> bool:
    return bool(urlsplit(target).scheme or urlsplit(target).netloc)


def _broken(site: Path, pages: Mapping[Path, _Page], links: list[tuple[Path, str]]) -> Iterator[str]:
    for path, target in links:
        address, place = urldefrag(target)
        found = path if not address else (path.parent / unquote(urlsplit(address).path)).resolve()
        if found.is_dir():
            found /= "index.html"
        is_there = found.is_file() and (not place or found not in pages or unquote(place) in pages[found].places)
        if not is_there:
            yield f"{path.relative_to(site)}: {target}"


@click.command()
@click.argument("site", type=click.Path(path_type=Path))
@click.option("--elsewhere", type=click.Path(path_type=Path), help="A file for the list of links to other sites.")
def main(site: Path, elsewhere: Path | None) -> None:
    """Follow every link of the built SITE; ends with 1 when one leads nowhere."""
    try:
        found = follow(site.resolve())
    except TuneserveError as error:
        click.echo(f"site_links: {error}", err=True)
        sys.exit(error.exit_code)
    if elsewhere:
        elsewhere.write_text("".join(f"{target}\n" for target in found.elsewhere), "utf-8")
    for line in found.broken:
        click.echo(f"leads nowhere: {line}", err=True)
    click.echo(
        f"{found.num_pages} pages: {found.num_links} links within the site, {len(found.broken)} of them broken; "
        f"{len(found.elsewhere)} elsewhere",
        err=True,
    )
    sys.exit(bool(found.broken))


if __name__ == "__main__":
    main()
