"""Templates and expressions of a definition: compiled, and held to what their place may name."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

from perdure_engine.definitions.pointers import child
from perdure_engine.definitions.report import Report
from perdure_engine.templates import (
    Expression,
    Reference,
    Template,
    TemplateSyntaxError,
    compile_expression,
    compile_template,
)

Place = Literal["inputs", "when", "delay", "concurrency", "where", "key", "output"]

_ROOTS: dict[Place, frozenset[str]] = {
    "inputs": frozenset({"input", "event", "events", "tasks", "run"}),
    "when": frozenset({"input", "event", "events", "tasks", "run"}),
    "delay": frozenset({"input", "event", "events", "tasks", "run"}),
    "concurrency": frozenset({"input", "event", "events", "tasks", "run"}),
    # A `where` and a `key` are read where an event arrives, before its run exists.
    "where": frozenset({"input", "event"}),
    "key": frozenset({"input", "event"}),
    "output": frozenset({"input", "tasks", "run"}),
}

_WHY_NOT = {
    "tasks": "no task has ended when it is read",
    "run": "the run may not exist yet when it is read",
    "event": "no single event made the run end; the starting payload is `input`",
    "events": "it belongs to one task's triggers",
    "secrets": "secrets are not supported yet",
    "item": "it exists inside `for_each` only, which is not supported yet",
    "index": "it exists inside `for_each` only, which is not supported yet",
}

Wrong = Callable[[Reference], str | None]
"""What is wrong with a reference, as a sentence; None if nothing is."""


def read_template(value: Any, pointer: str, place: Place, report: Report) -> Template | None:
    """The value compiled; None if it cannot be. Roots its place does not have are reported."""
    try:
        template = compile_template(value, pointer)
    except TemplateSyntaxError as error:
        report.faults += error.faults
        return None
    check_template(template, value, lambda reference: _wrong_root(reference, place), report)
    return template


def read_expression(text: str, pointer: str, place: Place, report: Report) -> Expression | None:
    """The expression compiled; None if it cannot be. Roots its place does not have are reported."""
    try:
        expression = compile_expression(text, pointer)
    except TemplateSyntaxError as error:
        report.faults += error.faults
        return None
    check_expression(expression, lambda reference: _wrong_root(reference, place), report)
    return expression


def check_expression(expression: Expression, wrong: Wrong, report: Report) -> None:
    """Report each reference that is ``wrong``."""
    for sentence in _sentences(expression.references, wrong).values():
        report.fault(expression.pointer, sentence)


def check_template(template: Template, value: Any, wrong: Wrong, report: Report) -> None:
    """Report every use of a reference that is ``wrong``, each at the text it stands in; ``value`` is as written."""
    sentences = _sentences(template.references, wrong)
    if not sentences:
        return
    # A template knows its references but not where they stand; only a fault is worth compiling its parts again.
    for pointer, text in _texts(value, template.pointer):
        for reference in sorted(compile_template(text, pointer).references & sentences.keys(), key=repr):
            report.fault(pointer, sentences[reference])


def _sentences(references: frozenset[Reference], wrong: Wrong) -> dict[Reference, str]:
    found = {reference: wrong(reference) for reference in sorted(references, key=repr)}
    return {reference: sentence for reference, sentence in found.items() if sentence is not None}


def _texts(value: Any, pointer: str) -> Iterator[tuple[str, str]]:
    """The texts of a value that may hold templates, each with its pointer."""
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _texts(each, child(pointer, index))
    elif isinstance(value, dict) and value.keys() != {"$literal"}:
        for key, each in value.items():
            yield from _texts(each, child(pointer, key))


def _wrong_root(reference: Reference, place: Place) -> str | None:
    root = str(reference[0])
    if root in _ROOTS[place]:
        return None
    return f"`{root}` cannot be used in `{place}`: {_WHY_NOT[root]}"
