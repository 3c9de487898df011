"""The page's files and how they are served; `tests/integration/test_page.py` has it used in a browser."""

import io
import re
import tomllib
import zipfile
from pathlib import Path

import pytest

from common.code_archive import SERVING_FOLDERS, pack
from serve.page import CLIENT_FILE, FOLDER, TYPES
from tests.fake_backend import FakeBackend, ask, gateway, run

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(FOLDER.iterdir())
LOADED = [path for path in FILES if path.suffix != ".html"]


def test_a_browser_gets_the_endpoints_page_and_no_replica_is_reached() -> None:
    backend = FakeBackend()
    response = ask("GET", "/news", backend)

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>news · tuneserve</title>" in response.text
    assert "{{" not in response.text
    assert backend.batches == []


def test_the_same_path_still_speaks_hugging_face() -> None:
    assert ask("POST", "/news", json={"inputs": "a"}).json()[0][0]["label"] == "good"


def test_the_gateways_own_page_lists_the_endpoints() -> None:
    response = ask("GET", "/")

    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "index.js" in response.text


@pytest.mark.parametrize("path", ["/news", "/"])
def test_whatever_a_page_names_is_there(path: str) -> None:
    page = ask("GET", path).text
    named = re.findall(r'(?:href|src)="([^"#]+)"', page)

    assert len(named) >= 4
    for found in named:
        if found != "./":
            assert ask("GET", f"/{found}").status_code == 200, found


def test_every_module_that_a_script_imports_is_there() -> None:
    for script in FOLDER.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', script.read_text("utf-8")):
            assert (FOLDER / name).is_file(), f"{script.name} imports {name}"


@pytest.mark.parametrize("path", ["/news", "/", "/news/page/style.css", "/_gateway/page/index.js"])
def test_the_browser_is_told_to_load_and_run_nothing_but_these_files(path: str) -> None:
    headers = ask("GET", path).headers

    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("file", LOADED, ids=lambda path: path.name)
def test_a_file_is_served_with_its_type_and_again_only_when_it_changed(file: Path) -> None:
    path = f"/news/page/{file.name}"
    first = ask("GET", path)
    again = ask("GET", path, headers={"If-None-Match": first.headers["etag"]})

    assert (first.status_code, first.content) == (200, file.read_bytes())
    assert first.headers["content-type"] == TYPES[file.suffix]
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


def test_pages_of_two_endpoints_are_not_taken_for_one_another() -> None:
    assert ask("GET", "/news").headers["etag"] != ask("GET", "/spam").headers["etag"]


def test_the_client_to_copy_is_the_one_that_ships() -> None:
    assert ask("GET", "/news/page/client.py").content == CLIENT_FILE.read_bytes()


@pytest.mark.parametrize("file", ["..%2fgateway.py", "%2e%2e/gateway.py", "gateway.py", "page.html", "nothing.js", ""])
def test_no_other_file_is_served(file: str) -> None:
    assert ask("GET", f"/news/page/{file}").status_code == 404


@pytest.mark.parametrize("name", ["%3Cscript%3E", "a%22b", "News", "favicon.ico", "a" * 64, "%2e%2e"])
def test_a_name_that_no_endpoint_can_have_gets_no_page(name: str) -> None:
    response = ask("GET", f"/{name}")

    assert (response.status_code, response.json()) == (404, {"error": "Not Found"})


def test_an_endpoint_that_is_not_there_is_not_found() -> None:
    response = ask("GET", "/olds")

    assert response.status_code == 404
    assert "<title>olds" in response.text
    assert ask("GET", "/olds/page/page.js").status_code == 200, "or the page could not say so"


def test_asking_for_the_head_of_a_page_is_answered() -> None:
    response = ask("HEAD", "/news")

    assert (response.status_code, response.text) == (200, "")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_nothing_is_loaded_from_elsewhere_or_written_into_the_page(file: Path) -> None:
    content = file.read_text("utf-8")

    assert set(re.findall(r"https?://[\w.-]+", content)) <= {"http://www.w3.org"}  # SVG's name
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", content)
    if file.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", content)


def test_the_files_travel_with_the_code() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    listed = {path for pattern in packaged["serve"] for path in (ROOT / "serve").glob(pattern)}
    archived = zipfile.ZipFile(io.BytesIO(pack(SERVING_FOLDERS))).namelist()

    assert listed == set(FILES)
    assert {path.relative_to(ROOT).as_posix() for path in FILES} <= set(archived)


def test_a_prefix_that_a_proxy_took_away_leads_nowhere_wrong() -> None:
    async def scenario() -> None:
        async with gateway(FakeBackend()) as client:
            page = (await client.get("/news")).text
        assert not re.search(r'(?:href|src)="/', page), "only relative paths survive a prefix"

    run(scenario)
