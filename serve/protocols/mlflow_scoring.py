"""MLflow's scoring protocol: `/<name>/invocations`, `/<name>/ping` and `/<name>/version`.

Its description: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/ . The answers are those of `mlflow
models serve` for the same registered model.
"""

import csv
from collections.abc import Iterator
from io import StringIO
from typing import Any

from fastapi import Response

from serve.bodies import MAX_MARKS, off_loop
from serve.exchange import JSON_TYPES, MAX_TEXT_CHARS, Exchange, RefusedError, json_object, kind, only, settings
from serve.routes import Protocol, Routes, json_response
from serve.version import mlflow_version

TEXT_COLUMN = "text"
"""Which column is read where there are several."""

_FORMATS = ("inputs", "instances", "dataframe_split", "dataframe_records")
MAX_NAMES_SHOWN = 8
MAX_LINE_CHARS = 4 * MAX_TEXT_CHARS
"""Of CSV: a text, every character of it a doubled quotation mark, and other columns."""

_CSV = "text/csv"
_STATUSES = {422: 400}
_ERROR_CODES = {
    404: "RESOURCE_DOES_NOT_EXIST",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""The rest is `BAD_REQUEST`."""


def refuse(refusal: RefusedError) -> Response:
    """`{"error_code": ..., "message": ...}`."""
    content = {"error_code": _ERROR_CODES.get(refusal.status, "BAD_REQUEST"), "message": str(refusal)}
    return json_response(content, _STATUSES.get(refusal.status, refusal.status), refusal.headers)


PROTOCOL = Protocol(
    "mlflow",
    refuse,
    error_schema={
        "type": "object",
        "required": ["error_code", "message"],
        "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
    },
    statuses=_STATUSES,
)
_CELL = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "object"}]}
_REQUEST = {
    "description": "Exactly one of the four forms.",
    "type": "object",
    "additionalProperties": False,
    "minProperties": 1,
    "properties": {
        "inputs": {"anyOf": [{"type": "string"}, {"type": "array", "items": _CELL}, {"type": "object"}]},
        "instances": {"type": "array", "items": _CELL},
        "dataframe_split": {"type": "object", "required": ["columns", "data"]},
        "dataframe_records": {"type": "array", "items": {"type": "object"}},
        "params": {"type": ["object", "null"], "maxProperties": 0},
    },
    "examples": [
        {"inputs": ["Profits doubled", "The plant closes"]},
        {"dataframe_split": {"columns": ["text"], "data": [["Profits doubled"]]}},
        {"dataframe_records": [{"text": "Profits doubled"}]},
    ],
}
_ANSWER = {
    "description": "A label with its score for each text.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["predictions"],
                "properties": {
                    "predictions": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"label": {"type": "string"}, "score": {"type": "number"}},
                            "required": ["label", "score"],
                        },
                    }
                },
            }
        }
    },
}


def add_routes(routes: Routes) -> None:
    """`POST /{name}/invocations`, `GET /{name}/ping`, `GET /{name}/version`."""
    routes.post(
        PROTOCOL,
        "/{name}/invocations",
        _invocations,
        "MLflow: score",
        answer=_ANSWER,
        body={
            "application/json": {"schema": _REQUEST},
            _CSV: {"schema": {"type": "string", "examples": ["text\nProfits doubled\n"]}},
        },
    )
    routes.get(PROTOCOL, "/{name}/ping", _ping, "MLflow: whether requests are answered", {"description": "They are."})
    version = {"description": "MLflow's version.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    routes.get(PROTOCOL, "/{name}/version", _version, "MLflow: its version", version)


async def _invocations(exchange: Exchange) -> Response:
    exchange.require_content_type(JSON_TYPES | {_CSV})
    parse = _csv_texts if exchange.content_type() == _CSV else _json_texts
    texts = await off_loop(parse, await exchange.body())
    answers = await exchange.classify(texts)
    return json_response({"predictions": [{"label": answer["label"], "score": answer["score"]} for answer in answers]})


async def _ping(exchange: Exchange) -> Response:
    exchange.require_version()
    return Response("\n", media_type="application/json")  # as MLflow's server says it


async def _version(_exchange: Exchange) -> Response:
    return Response(mlflow_version(), media_type="text/plain")


def _json_texts(body: bytes) -> list[str]:
    wanted = json_object(body)
    only(wanted, (*_FORMATS, "params"))
    settings(wanted.get("params"), "params", ())
    given = [name for name in _FORMATS if name in wanted]
    if len(given) != 1:
        raise RefusedError(422, f"give exactly one of {', '.join(_FORMATS)}; given: {', '.join(given) or 'none'}")
    name, value = given[0], wanted[given[0]]
    if name == "dataframe_split":
        return _split(value)
    if name == "inputs" and isinstance(value, str):
        return [value]
    if name == "inputs" and isinstance(value, dict):
        column = value[_column(list(value), name)]
        return [_cell(item, name) for item in (column if isinstance(column, list) else [column])]
    if not isinstance(value, list):
        raise RefusedError(422, f"{name}: expected an array and not {kind(value)}")
    return [_cell(item, f"{name}[{number}]") for number, item in enumerate(value)]


def _split(frame: Any) -> list[str]:
    where = "dataframe_split"
    if not isinstance(frame, dict) or not isinstance(frame.get("data"), list):
        raise RefusedError(
            422, f"{where}: expected an object with columns and data, as DataFrame.to_dict('split') makes it"
        )
    columns = frame.get("columns")
    if not isinstance(columns, list):
        raise RefusedError(422, f"{where}: columns: expected an array and not {kind(columns)}")
    position = columns.index(_column(columns, where))
    texts = []
    for number, row in enumerate(frame["data"]):
        if not isinstance(row, list) or len(row) != len(columns):
            raise RefusedError(
                422, f"{where}: data[{number}]: expected an array of {len(columns)} values, one a column"
            )
        texts.append(_cell(row[position], f"{where}: data[{number}]"))
    return texts


def _cell(item: Any, where: str) -> str:
    """A text by itself, as the only one of a row, or as a record's column."""
    if isinstance(item, list) and len(item) == 1:
        item = item[0]
    if isinstance(item, dict):
        item = item[_column(list(item), where)]
    if not isinstance(item, str):
        raise RefusedError(422, f"{where}: expected a string and not {kind(item)}")
    return item


def _column(names: list[Any], where: str) -> Any:
    """The only column, or the one named `text`."""
    if len(names) == 1:
        return names[0]
    if TEXT_COLUMN in names:
        return TEXT_COLUMN
    shown = ", ".join(map(repr, names[:MAX_NAMES_SHOWN])) or "none"
    raise RefusedError(
        422, f"{where}: the columns are {shown}; give one column, or name the one to read {TEXT_COLUMN!r}"
    )


def _csv_texts(body: bytes) -> list[str]:
    try:
        rows = list(_csv_rows(body.decode("utf-8-sig")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise RefusedError(422, f"the body is not CSV in UTF-8: {error}") from None
    if not rows:
        raise RefusedError(422, "the body is empty; its first line names the columns")
    header = rows[0]
    position = header.index(_column(header, "CSV"))
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise RefusedError(422, f"CSV row {number} has {len(row)} values and the header {len(header)}")
    return [row[position] for row in rows[1:]]


def _csv_rows(text: str) -> Iterator[list[str]]:
    """The rows that are not empty. Raises `RefusedError` when their number, or that of their values, is too large."""
    if max(map(len, text.split("\n"))) > MAX_LINE_CHARS:  # the reader lets nobody else run before a line is read
        raise RefusedError(413, f"a line of the body has more than {MAX_LINE_CHARS} characters; send shorter texts")
    num_values = 0
    for row in csv.reader(StringIO(text), strict=True):
        num_values += 1 + len(row)
        if num_values > MAX_MARKS:
            raise RefusedError(
                413, f"the body holds more than {MAX_MARKS} rows and values; send them in several requests"
            )
        if row:
            yield row
