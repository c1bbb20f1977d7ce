"""A definition as written: JSON text, YAML text or a Python dictionary, and its canonical form."""

import codecs
import hashlib
from typing import Literal

import orjson

from perdure_engine.definitions.json_text import read_json
from perdure_engine.definitions.report import Report
from perdure_engine.definitions.values import check_values
from perdure_engine.definitions.yaml_text import read_yaml
from perdure_engine.faults import DefinitionRefused, Fault

Form = Literal["json", "yaml"]


def read_document(text: str | bytes, form: Form | None = None) -> object:
    """The value that JSON or YAML text stands for; without ``form``, text that begins with ``{`` or ``[`` is JSON.

    YAML yields JSON values only (YAML 1.2's core schema: ``yes`` and dates are text). Both refuse a key written
    twice. A byte order mark is skipped.

    Raises DefinitionRefused, naming line and column.
    """
    text = _decoded(text).removeprefix("\ufeff")
    if form is None:
        form = "json" if text.lstrip().startswith(("{", "[")) else "yaml"
    try:
        return read_json(text) if form == "json" else read_yaml(text)
    except ValueError as refusal:
        raise DefinitionRefused("", [Fault("", str(refusal))]) from refusal


def canonical(document: object) -> bytes:
    """The document as JSON with sorted keys and no white space, in UTF-8.

    Raises DefinitionRefused for a value JSON has no exact form for.
    """
    report = Report()
    check_values(document, report)
    if report.faults:
        named = document.get("workflow_id") if isinstance(document, dict) else None
        raise DefinitionRefused(named if isinstance(named, str) and named.isprintable() else "", report.faults)
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def digest_of(canonical_document: bytes) -> str:
    """The SHA-256 of a canonical document, in hex: the definition's identity."""
    return hashlib.sha256(canonical_document).hexdigest()


def _decoded(text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    # Windows shells redirect to UTF-16 with a mark.
    encoding = "utf-16" if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        return text.decode(encoding)
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise DefinitionRefused("", [Fault("", f"line {line}: the text is not valid {encoding.upper()}")]) from error
