"""What users hand in: JSON, files, names."""

import sys
from pathlib import Path
from typing import BinaryIO

from perdure.cli.exits import WrongUse
from perdure_engine.definitions.document import Form, read_document
from perdure_eventstore.door import MAX_BYTES, Json


def read_data(given: str) -> Json:
    """``JSON``, ``@FILE``, or ``-`` for standard input, kept as written. Raises PayloadRefused, WrongUse."""
    if given == "-":
        text: str | bytes = _bounded("standard input", sys.stdin.buffer)
    elif given.startswith("@"):
        text = read_file(given[1:])
    else:
        text = given
    return Json.parse(text)


def read_file(name: str) -> bytes:
    """The bytes of a file the user named. Raises WrongUse."""
    try:
        with Path(name).open("rb") as file:
            return _bounded(name, file)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise WrongUse(f"{name} cannot be read: {why}") from error


def _bounded(name: str, file: BinaryIO) -> bytes:
    # A pipe or a device may never end.
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise WrongUse(f"{name} has more than {MAX_BYTES:,} bytes; store them elsewhere and pass a reference")
    return content


def read_definition(name: str) -> object:
    """The document in a file. Raises WrongUse, DefinitionRefused."""
    forms: dict[str, Form] = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}
    return read_document(read_file(name), forms.get(Path(name).suffix.lower()))


def text(what: str, given: str | None) -> str | None:
    """``given`` if it is text: an argument may hold any bytes. Raises WrongUse."""
    if given is not None and not given.isprintable():
        raise WrongUse(f"{what} is not text that can be printed: {given!r:.60}")
    return given
