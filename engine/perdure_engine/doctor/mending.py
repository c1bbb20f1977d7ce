"""Rows made as the log says."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

from perdure_engine.doctor.assigned import is_missing
from perdure_engine.doctor.faults import Fault, Row
from perdure_engine.doctor.snapshot import Snapshot
from perdure_engine.identity import shard_of
from perdure_engine.results import write_result
from perdure_engine.run.commands import InterruptAttempt

_TYPES = {"xact": "xid8", "waiting": "json"}
"""Columns whose values Python has as text."""


async def mend(log: Snapshot, faults: Sequence[Fault]) -> list[Fault]:
    """Rebuild the rows of ``faults``, and have the nodes look at the runs and schedules concerned. Raises LogError.

    Returns the faults; those that could not be rebuilt, or cannot be, say why.
    """
    # First what must not be there: the key of a run that is gone is another's.
    await _write(log, [fault for fault in faults if fault.log is None])
    faults = await _without_key(log, faults)
    await _write(log, [fault for fault in faults if fault.log is not None and not fault.lost])
    runs = {fault.where["run"] for fault in faults if fault.log is not None and "run" in fault.where}
    adopted = f"""insert into "{log.schema}".inbox (run, shard, kind)
        select o.run, o.shard, 'started' from "{log.schema}".open_runs o where o.run = any(%s)"""
    await log.session.fetch(adopted, (list(runs),))
    schedules = [fault.where["schedule"] for fault in faults if fault.table == "schedules"]
    told = f"""insert into "{log.schema}".inbox (run, shard, kind)
        select s.schedule, s.shard, 'schedule' from "{log.schema}".schedules s where s.schedule = any(%s)"""
    await log.session.fetch(told, (schedules,))
    await log.session.fetch("select pg_notify(%s, '')", (log.schema,))
    return [*faults]


async def _write(log: Snapshot, faults: Sequence[Fault]) -> None:
    statements: defaultdict[str, list[list[object]]] = defaultdict(list)
    for fault in faults:
        statement, values = _statement(log.schema, fault)
        statements[statement].append(values)
    async with log.connection.cursor() as cursor:
        for statement, rows in statements.items():
            await cursor.executemany(statement.encode(), rows)


async def _without_key(log: Snapshot, faults: Sequence[Fault]) -> list[Fault]:
    """While a keyed run's row was lost, an event may have started another run with its key: one of them has to go."""
    taken = f'select run from "{log.schema}".open_runs where workflow_id = %s and key = %s and run <> %s'
    met: dict[tuple[str, str], object] = {}
    judged = []
    for fault in faults:
        row = fault.log or {}
        if fault.table == "open_runs" and fault.there is None and row.get("key") is not None and not fault.lost:
            run, key = fault.where["run"], (row["workflow_id"], row["key"])
            found = await log.session.fetch(taken, (*key, run))
            if (other := found[0][0] if found else met.setdefault(key, run)) != run:
                fault = fault._replace(lost=f"run {other} is open with the same key: cancel one of the two")
        judged.append(fault)
    return judged


def _statement(schema: str, fault: Fault) -> tuple[str, list[object]]:
    table, where, log = f'"{schema}".{fault.table}', fault.where, fault.log
    if is_missing(fault):
        return _interrupted(schema, fault)
    if log is None:
        return f"delete from {table} where {_equal(where, ' and ')}", [*where.values()]
    if fault.there is not None:
        return f"update {table} set {_equal(log, ', ')} where {_equal(where, ' and ')}", [
            *log.values(),
            *where.values(),
        ]
    row = where | log
    return f"insert into {table} ({', '.join(row)}) values ({', '.join(['%s'] * len(row))})", [*row.values()]


def _interrupted(schema: str, fault: Fault) -> tuple[str, list[object]]:
    """The owner is told what the attempt's node would say of one that came to nothing."""
    run, task_id, attempt = fault.where["run"], fault.where["task_id"], (fault.log or {})["attempt"]
    ended = InterruptAttempt(at=datetime.now(UTC), task_id=task_id, attempt=attempt)
    statement = f"""insert into "{schema}".inbox (run, shard, kind, detail) values (%s, %s, 'attempt', %s::json)"""
    return statement, [run, shard_of(run), write_result(ended).detail.decode()]


def _equal(row: Row, between: str) -> str:
    return between.join(f"{column} = %s{f'::{type_}' if (type_ := _TYPES.get(column)) else ''}" for column in row)
