"""Bytes to text with a message that helps, and the traces that a wrong decoding leaves."""

import codecs

from common.errors import DataError

CANDIDATES = ("utf-8", "cp1252", "latin-1")
"""What text files are, nearly always; the last one decodes anything."""


def decode(content: bytes, name: str, encoding: str) -> str:
    """The text of a file, without its byte order mark.

    Raises DataError for an encoding that Python does not know, and for bytes that do not decode: with the first byte's
    position, how each encoding that does decode reads the place, and whether the file mixes encodings.
    """
    try:
        text = content.decode(encoding)
    except LookupError as error:
        raise DataError(
            f"data.encoding {encoding!r} is not a text encoding; use for example utf-8 or latin-1"
        ) from error
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        raise DataError(_undecodable(content, name, encoding, start)) from error
    return text.removeprefix("\ufeff")


def repaired(text: str) -> str | None:
    """What `text` was before UTF-8 was once read as Windows-1252 (`FÃ©in`: `Féin`), or None when it was not.

    Text that survives this round trip by chance is very rare, as UTF-8 is strict.
    """
    if text.isascii():
        return None
    try:
        return text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return None


def _undecodable(content: bytes, name: str, encoding: str, start: int) -> str:
    line = content.count(b"\n", 0, start) + 1
    message = f"{name} is not {encoding}: byte {start} (line {line}) is 0x{content[start : start + 1].hex()}"
    if _mixes_encodings(content, encoding):
        return f"{message}, yet other lines hold proper UTF-8 letters: the file mixes encodings; convert it to one"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and _decodes(content, "utf-16"):
        return f"{message}; it looks like UTF-16: set data.encoding=utf-16"
    around = content[max(0, start - 15) : start + 15].split(b"\n")
    place = next((piece for piece in around if not piece.isascii()), b"")
    readings = [f"{way} reads {place.decode(way, 'replace')!r}" for way in CANDIDATES if _decodes(content, way)]
    return f"{message}; set data.encoding to the one that reads well: {', '.join(readings)}"


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeError:
        return False
    return True


def _mixes_encodings(content: bytes, encoding: str) -> bool:
    """Whether some lines are UTF-8 beyond ASCII although the file as a whole is not."""
    if codecs.lookup(encoding).name != "utf-8":
        return False
    return any(not line.isascii() and _decodes(line, "utf-8") for line in content.split(b"\n"))
