"""The calls that the page shows for copying do what they say."""

import functools
import json
import shlex
import sys
import types
from typing import Any

import pytest

from serve.client import Prediction
from tests.browser import Page
from tests.page_gateway import Serve


def test_calls_are_copied_with_this_address_and_the_readers_text(serve: Serve, page: Page) -> None:
    url = f"{serve().url}/news"
    page.open(url)
    page.tab_to("#text")
    page.type('it\'s "good"')
    page.tab_to("#call-curl .copy")
    copied = {}
    for client in ("curl", "python", "hub"):
        page.run(f"document.querySelector('#tab-{client}').click()")
        page.run(f"document.querySelector('#call-{client} .copy').click()")
        page.wait_for(f"document.querySelector('#call-{client} .copied').innerText === 'Copied.'")
        copied[client] = page.run("navigator.clipboard.readText()")

    asked = json.loads(shlex.split(copied["curl"].replace("\\\n", " "))[-1])
    assert asked == {"texts": ['it\'s "good"']}
    assert f"curl '{url}/classify'" in copied["curl"]
    said: list[Any] = []
    stand_in = types.ModuleType("client")
    stand_in.Client = functools.partial(_StandIn, said)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "client", stand_in)
        exec(compile(copied["python"], "copied", "exec"), {"print": lambda *_: None})
    assert said == [url, 'it\'s "good"']
    said.clear()
    exec(compile(copied["hub"], "copied", "exec"), {"print": said.extend})
    assert said[0].label == "neutral"


class _StandIn:
    """Takes the place of `serve.client.Client`, and notes what it is asked."""

    def __init__(self, said: list[Any], url: str) -> None:
        said.append(url)
        self.classify = lambda text: said.append(text) or Prediction("good", 1.0, {}, 1)

    def __enter__(self) -> "_StandIn":
        return self

    def __exit__(self, *_: object) -> None:
        pass
