"""The section `serve.request_log` of a recipe, and where an endpoint's log lies."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from common.location import join
from common.settings import Settings

TextMode = Literal["plain", "redacted", "hashed"]
"""What is kept of a text: all of it, all but what looks like an address or a number, or a digest."""

FOLDER = "request_log"


class RequestLog(Settings):
    """What an endpoint was asked and what it answered, as Parquet files in the storage."""

    texts: TextMode = "plain"
    """What is kept of a text. `redacted`: e-mail addresses, URLs, telephone, card and other long numbers become marks
    such as `[email]`. `hashed`: a keyed digest, by which equal texts can be counted and none can be read."""
    retain_days: Annotated[int, Field(ge=1, le=36_500)] = 30
    """Days (of UTC) that are further back than this are deleted."""
    retain_mb: PositiveInt = 1024
    """The oldest files are deleted while the endpoint's log is larger than this, in MB of 1,000,000 bytes."""


def log_location(storage: str, endpoint: str) -> str:
    """The folder that holds an endpoint's log."""
    return join(storage, FOLDER, endpoint)
