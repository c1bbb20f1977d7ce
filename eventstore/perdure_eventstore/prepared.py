"""A statement that a connection prepares once, and then sends with as little as possible in between.

psycopg's cursors look at every parameter and every answer anew. Where both are packed by hand, that takes longer than
a small append: a quarter of the time between two commits.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Any
from weakref import WeakSet

from psycopg import AsyncConnection, generators
from psycopg.abc import PQGen
from psycopg.errors import InvalidSqlStatementName, OperationalError, error_from_result
from psycopg.pq import DiagnosticField, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult

_numbers = count(1)
_DONE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


class Prepared:
    """``sql`` with ``$1``, ``$2``, …; parameters and answers are in Postgres' binary form.

    ``inside`` does the same in somebody's open transaction, where ``sql`` is one of its own and commits.
    """

    def __init__(self, sql: str, parameters: int, *, inside: str | None = None) -> None:
        self._sql, self._inside = sql.encode(), (inside or sql).encode()
        self._name = b"perdure_%d" % next(_numbers)
        self._formats = [Format.BINARY] * parameters
        self._prepared_on: WeakSet[AsyncConnection[Any]] = WeakSet()

    async def execute(self, connection: AsyncConnection[Any], parameters: Sequence[bytes | None]) -> PGresult:
        """Run it on ``connection``, which is in autocommit or in an open transaction. Raises psycopg.Error."""
        pgconn = connection.pgconn
        async with connection.lock:
            if pgconn.transaction_status != TransactionStatus.IDLE:
                # In somebody's transaction: psycopg deallocates every statement after a rollback, and one that is gone
                # would end the transaction.
                pgconn.send_query_params(
                    self._inside, parameters, param_formats=self._formats, result_format=Format.BINARY
                )
                return await _answer(connection)
            if not connection.autocommit:
                raise ValueError("this connection would begin a transaction by itself: begin it, or set autocommit")
            if connection in self._prepared_on:
                with suppress(InvalidSqlStatementName):
                    return await self._send(connection, parameters)
            pgconn.send_prepare(self._name, self._sql)
            await _answer(connection)
            self._prepared_on.add(connection)
            return await self._send(connection, parameters)

    async def _send(self, connection: AsyncConnection[Any], parameters: Sequence[bytes | None]) -> PGresult:
        connection.pgconn.send_query_prepared(self._name, parameters, self._formats, result_format=Format.BINARY)
        return await _answer(connection)


async def _answer(connection: AsyncConnection[Any]) -> PGresult:
    generator: PQGen[list[PGresult]] = generators.execute(connection.pgconn)
    results = await connection.wait(generator)
    # Unless the statement commits by itself, COMMIT comes after its answer: what goes wrong there, or a connection
    # lost by then, is one more result.
    for result in results:
        if result.status not in _DONE:
            if result.error_field(DiagnosticField.SQLSTATE) is None:
                # Not Postgres said so, but its client library: there is no Postgres any more.
                raise OperationalError(result.get_error_message(connection.info.encoding))
            raise error_from_result(result, connection.info.encoding)
    return results[0]
