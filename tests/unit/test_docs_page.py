"""The documentation page; that it shows the gateway's forms is held by `test_gateway.py`."""

import re

from serve.docs_page import render

MARK = "<b>&'"


def test_every_text_is_escaped_and_nothing_is_loaded_from_elsewhere() -> None:
    examples = [{"text": MARK}, {"texts": [MARK]}]
    post = {
        "summary": f"classify {MARK}",
        "requestBody": {"content": {"application/json": {"schema": {"examples": examples}}}},
        "responses": {"200": {"description": f"answer {MARK}"}},
    }
    get = {"summary": f"health {MARK}", "responses": {"404": {"description": f"none {MARK}"}}}

    page = render(
        {
            "info": {"title": f"title {MARK}", "description": f"about {MARK}"},
            "paths": {f"/{MARK}/classify": {"post": post}, "/healthz": {"get": get}},
        }
    )

    assert "<b>" not in page
    for words in ("title", "about", "classify", "answer", "health", "none"):
        assert f"{words} &lt;b&gt;&amp;&#x27;" in page
    assert page.count("{&quot;text") == len(examples)
    assert page.count("<pre>") == 1  # of the form with a body
    assert re.findall(r"(?:href|src|action|url|@import)\W+([\w:/.]+)", page) == ["openapi.json"]
    assert "http" not in page
