"""Rows made as the log says."""

from collections import defaultdict
from collections.abc import Sequence

from perdure_engine.doctor.faults import Fault, Row
from perdure_engine.doctor.snapshot import Snapshot

_TYPES = {"xact": "xid8"}
"""Columns whose values Python has as text."""


async def mend(log: Snapshot, faults: Sequence[Fault]) -> None:
    """Rebuild the rows of ``faults``, and have the nodes look at the runs they belong to. Raises LogError."""
    statements: defaultdict[str, list[list[object]]] = defaultdict(list)
    # First what must not be there: the key of a run that is gone is another's.
    for fault in sorted(faults, key=lambda fault: fault.log is not None):
        statement, values = _statement(log.schema, fault)
        statements[statement].append(values)
    async with log.connection.cursor() as cursor:
        for statement, rows in statements.items():
            await cursor.executemany(statement.encode(), rows)
    runs = {fault.where["run"] for fault in faults if fault.log is not None and "run" in fault.where}
    adopted = f"""insert into "{log.schema}".inbox (run, shard, kind)
        select o.run, o.shard, 'started' from "{log.schema}".open_runs o where o.run = any(%s)"""
    await log.session.fetch(adopted, (list(runs),))
    await log.session.fetch("select pg_notify(%s, '')", (log.schema,))


def _statement(schema: str, fault: Fault) -> tuple[str, list[object]]:
    table, where, log = f'"{schema}".{fault.table}', fault.where, fault.log
    if log is None:
        return f"delete from {table} where {_equal(where, ' and ')}", [*where.values()]
    if fault.there is not None:
        return f"update {table} set {_equal(log, ', ')} where {_equal(where, ' and ')}", [
            *log.values(),
            *where.values(),
        ]
    row = where | log
    return f"insert into {table} ({', '.join(row)}) values ({', '.join(['%s'] * len(row))})", [*row.values()]


def _equal(row: Row, between: str) -> str:
    return between.join(f"{column} = %s{f'::{type_}' if (type_ := _TYPES.get(column)) else ''}" for column in row)
