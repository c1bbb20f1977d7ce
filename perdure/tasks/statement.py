"""One SQL statement with named parameters, and its rows as JSON."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic_core import to_jsonable_python
from sqlalchemy import CursorResult, Row, TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure_engine.errors import InputsInvalid, NoRetry
from perdure_engine.faults import Fault

MAX_ROWS: Final = 10_000

# Not the nested ones, which no regular expression can follow: what begins with one is refused.
_COMMENTS: Final = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*(?:(?!\*/|/\*).)*\*/)*", re.DOTALL)
_FIRST_WORD: Final = re.compile(r"[A-Za-z]+")
# What ends or nests the engine's transaction, and what would stay behind on a connection that goes back to the pool.
_REFUSED: Final = frozenset({
    "abort", "begin", "commit", "end", "prepare", "release", "rollback", "savepoint", "start",
    "deallocate", "discard", "listen", "load", "reset", "set", "unlisten",
})  # fmt: skip


class StatementRefused(NoRetry):
    """The database refused the statement or its data, and will again."""


class StatementFailed(Exception):
    """The database could not run it now: a lock, or a constraint that may hold on the next try."""


async def run_statement(connection: AsyncConnection, statement: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Run it and return ``{"rowcount", "rows"}``, rows as objects and None for a statement that returns none.

    A parameter stands as ``:name`` (``cast(:name as json)``, not ``:name::json``). A list of plain values is passed as
    an array, any other list or object as JSON text. Numbers of type numeric come back as strings, exactly; times in
    ISO 8601; bytes in base64. Raises InputsInvalid before anything runs, StatementRefused for what another try cannot
    mend (a syntax error, a value out of range, more than 10,000 rows), the driver's own error for a lost connection,
    and StatementFailed for the rest.
    """
    clause = _checked(statement, parameters)
    values = {name: _value(value) for name, value in parameters.items()}
    try:
        result = await connection.execute(clause, values)
    except DBAPIError as error:
        if error.connection_invalidated and error.orig is not None:
            raise error.orig from None
        state = getattr(error.orig, "sqlstate", None) or ""
        # Class 22 is data, 42 syntax and access.
        kind = StatementRefused if state[:2] in ("22", "42") else StatementFailed
        # From the driver's error: SQLAlchemy's text shows the parameters, and a traceback would show it.
        raise kind(f"the database did not run the statement: {str(error.orig).strip()}") from error.orig
    return {"rowcount": result.rowcount, "rows": _rows(result) if result.returns_rows else None}


def _checked(statement: str, parameters: Mapping[str, Any]) -> TextClause:
    # A semicolon inside a literal is refused with the rest: telling it apart needs a parser of SQL, and a value like
    # that is a parameter anyway.
    body = statement.rstrip().removesuffix(";")
    word = _FIRST_WORD.match(body, found.end() if (found := _COMMENTS.match(body)) else 0)
    if ";" in body:
        raise _invalid("statement", "only one statement runs; pass text that holds a semicolon as a parameter")
    if word is None:
        raise _invalid("statement", "an SQL statement begins with a word, like select or insert")
    if word[0].lower() in _REFUSED:
        raise _invalid(
            "statement", f"{word[0]} is refused: the statement runs inside a transaction that is ended for it"
        )
    clause = text(body)
    named = clause.compile().params.keys()
    if missing := sorted(named - parameters.keys()):
        raise _invalid("parameters", f"the statement names :{missing[0]}, and `parameters` does not hold it")
    if unused := sorted(parameters.keys() - named):
        raise _invalid(
            f"parameters/{unused[0]}",
            f"the statement does not name :{unused[0]} (before a cast, write cast(:{unused[0]} as json))",
        )
    return clause


def _value(value: Any) -> Any:
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, dict | list) for each in value)):
        return json.dumps(value)
    return value


def _rows(result: CursorResult[Any]) -> list[dict[str, Any]]:
    if result.rowcount > MAX_ROWS:
        raise StatementRefused(f"the statement returned {result.rowcount:,} rows; at most {MAX_ROWS:,} are kept")
    names = list(result.keys())
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise StatementRefused(f"the statement returns two columns named {twice}; give one another name with `as`")
    return [_row(names, row) for row in result]


def _row(names: Sequence[str], row: Row[Any]) -> dict[str, Any]:
    values: dict[str, Any] = to_jsonable_python(dict(zip(names, row, strict=True)), bytes_mode="base64", fallback=str)
    return values


def _invalid(place: str, message: str) -> InputsInvalid:
    return InputsInvalid("database", [Fault(f"/{place}", message)])
