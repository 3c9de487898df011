"""The calls that the documents show are answered as they stand there."""

import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from serve.endpoints import Deployment
from tests.fake_backend import SPEC, FakeBackend, ask

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/endpoint.md")


def blocks(language: str) -> list[str]:
    return [
        block
        for page in PAGES
        for block in re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    ]


def curls() -> list[list[str]]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").replace("|\n", "| ").splitlines()
    return [shlex.split(line) for line in lines if "curl" in line]


@pytest.mark.parametrize("command", curls(), ids=" ".join)
def test_every_curl_is_answered(command: list[str]) -> None:
    where = command.index("curl")
    (url,) = (word for word in command[where:] if word.startswith("http"))
    options = list(zip(command[where:], command[where + 1 :], strict=False))
    headers = dict(value.split(": ", 1) for name, value in options if name == "-H")
    content = next((value for name, value in options if name == "-d"), None)
    if "--data-binary" in command:  # what printf writes into the pipe
        content = command[command.index("printf") + 1].replace("\\n", "\n")
    backend = FakeBackend(deployed={"quickstart": Deployment(SPEC, 1, 0)})

    response = ask("GET" if content is None else "POST", urlsplit(url).path, backend, content=content, headers=headers)

    assert response.is_success, response.text
    assert urlsplit(url).netloc == "127.0.0.1:8000"


def test_there_is_a_call_for_every_protocol() -> None:
    shown = "\n".join(" ".join(command) for command in curls())

    for path in ("/quickstart/classify", "/quickstart -H", "/quickstart/predict", "/v2/models/", "/invocations"):
        assert path in shown


@pytest.mark.parametrize("block", blocks("python"))
def test_every_python_block_is_python(block: str) -> None:
    compile(block, "block", "exec")
