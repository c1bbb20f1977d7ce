"""What users hand in: JSON, files, names."""

import sys
from pathlib import Path

from perdure.cli.exits import WrongUse
from perdure_engine.definitions.document import Form, read_document
from perdure_eventstore.door import MAX_BYTES, Json, PayloadRefused


def read_data(given: str) -> Json:
    """``JSON``, ``@FILE``, or ``-`` for standard input, kept as written. Raises PayloadRefused, WrongUse."""
    if given == "-":
        text: str | bytes = sys.stdin.buffer.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise PayloadRefused(
                f"standard input has more than {MAX_BYTES:,} bytes; store them elsewhere and pass a reference"
            )
    elif given.startswith("@"):
        text = read_file(given[1:])
    else:
        text = given
    return Json.parse(text)


def read_file(name: str) -> bytes:
    """The bytes of a file the user named. Raises WrongUse."""
    try:
        return Path(name).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise WrongUse(f"{name} cannot be read: {why}") from error


def read_definition(name: str) -> object:
    """The document in a file. Raises WrongUse, DefinitionRefused."""
    forms: dict[str, Form] = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}
    return read_document(read_file(name), forms.get(Path(name).suffix.lower()))


def text(what: str, given: str | None) -> str | None:
    """``given`` if it is text: an argument may hold any bytes. Raises WrongUse."""
    if given is not None and not given.isprintable():
        raise WrongUse(f"{what} is not text that can be printed: {given!r}")
    return given
