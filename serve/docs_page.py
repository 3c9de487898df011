"""The page at `/docs`: the OpenAPI document as plain HTML, with nothing loaded from elsewhere."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
pre { background: #8881; padding: .75rem; overflow-x: auto; } code { font-size: .9em; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; }
:root { color-scheme: light dark; }
"""


def render(openapi: Mapping[str, Any]) -> str:
    """A self-contained page for the OpenAPI document `openapi`."""
    info = openapi["info"]
    operations = [
        _operation(method.upper(), path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
        f"<style>{_STYLE}</style><h1>{escape(info['title'])}</h1><p>{escape(info['description'])}</p>"
        '<p>The machine-readable document is <a href="openapi.json">/openapi.json</a> (OpenAPI 3.1).</p>'
        f"{''.join(operations)}</html>"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    answers = "".join(
        f"<tr><td><code>{escape(status)}</code><td>{escape(answer['description'])}"
        for status, answer in operation["responses"].items()
    )
    return (
        f"<h2><code>{method} {escape(path)}</code></h2><p>{escape(operation['summary'])}.</p>"
        f"{_body(operation)}<table><tr><th>answer<th>{answers}</table>"
    )


def _body(operation: Mapping[str, Any]) -> str:
    if "requestBody" not in operation:
        return ""
    examples = operation["requestBody"]["content"]["application/json"]["schema"]["examples"]
    return f"<p>Body, one of:</p><pre>{escape(chr(10).join(json.dumps(example) for example in examples))}</pre>"
