"""The address of a tracking server or database: whether anything answers there, and no password shown.

Imports no MLflow, which takes a second.
"""

import os
import re
import socket
from urllib.parse import urlsplit

import httpx

from common.databricks import DATABRICKS, HOST
from common.errors import TrackingError

PROBE_TIMEOUT_S = 4.0
"""A tracking server that has not answered by then is reported as not answering."""

_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306}


def without_password(text: str) -> str:
    """A text as messages show it, with `***` for the passwords of URIs in it."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)


def refuse_password(uri: str) -> None:
    """Raises TrackingError for a server's address with a password: addresses end up in records and logs."""
    if uri.startswith(("http://", "https://")) and without_password(uri) != uri:
        raise TrackingError(
            f"the address {without_password(uri)} of the tracking server holds a password; leave it out and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def probe(uri: str) -> None:
    """Any answer below 500 will do: MLflow itself would retry a silent server for minutes."""
    way_out = "start it, or correct tracking.mlflow_uri, MLFLOW_TRACKING_URI"
    scheme = uri.partition("://")[0].partition("+")[0]
    if scheme in _DATABASE_PORTS:
        _probe_database(uri, _DATABASE_PORTS[scheme], way_out)
    if uri == DATABRICKS:
        host = os.environ[HOST]
        address, way_out = host if "://" in host else f"https://{host}", f"correct {HOST}"
    elif scheme in {"http", "https"}:
        address = f"{uri.rstrip('/')}/health"
    else:
        return
    try:
        status = httpx.get(address, timeout=PROBE_TIMEOUT_S).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise TrackingError(f"the tracking server {uri} does not answer ({reason}); {way_out}") from error
    if status >= 500:
        raise TrackingError(f"the tracking server {uri} answers with status {status}; {way_out}")


def _probe_database(uri: str, default_port: int, way_out: str) -> None:
    """Connects to the database server's port and no more; the error leaves out the URI, which may hold a password."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port or default_port
    except ValueError:  # several hosts, say: what the driver accepts is its own matter
        return
    if not host:  # a socket of this machine
        return
    try:
        socket.create_connection((host, port), PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise TrackingError(f"the tracking database at {host}:{port} does not answer ({error}); {way_out}") from error
