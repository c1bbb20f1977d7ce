"""Open runs, their timers and waits, and the attempts on other nodes: against what the runs' own events say."""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from perdure_engine.doctor.assigned import TABLE, Nodes, check_assigned, read_nodes, read_told
from perdure_engine.doctor.expected import Expected
from perdure_engine.doctor.faults import KEY_LOST, Fault, Row, compared
from perdure_engine.doctor.run_events import read_expected
from perdure_engine.doctor.snapshot import ENDED, Snapshot
from perdure_engine.doctor.useless import useless_of
from perdure_engine.identity import start_stream
from perdure_eventstore.keeper import ARCHIVED

_PAGE = 500
_NOW = "select clock_timestamp() + interval '5 s'"
"""A node tells the time by its own clock, which may differ by so much."""

_TABLES: Final = {
    "open_runs": (None, ("shard", "workflow_id", "key", "started_at", "paused", "parked")),
    "timers": ("timer", ("shard", "due", "held")),
    "waits": ("trigger", ("event", "key", "armed_at")),
    "assignments": ("task_id", ("attempt", "shard", "node", "digest")),
}
"""By table, which column tells a run's rows apart, and what else is compared."""

Rows = dict[str, dict[Any, Row]]
"""One run's rows: by table, and by what tells them apart."""


async def check_runs(log: Snapshot, only: Sequence[Fault] | None = None) -> AsyncIterator[Fault]:
    """Whatever is wrong with the rows of runs; ``only`` of these, found before. Raises LogError."""
    nodes = await read_nodes(log)
    if only is None:
        async for page in log.pages(_concerned(log.schema), (), _PAGE):
            for fault in await _examine(log, [run for (run,) in page], nodes):
                yield fault
        return
    runs = sorted({fault.where["run"] for fault in only if fault.table in _TABLES})
    for first in range(0, len(runs), _PAGE):
        for fault in await _examine(log, runs[first : first + _PAGE], nodes):
            yield fault


def _concerned(schema: str) -> str:
    """Runs that have not ended by the log, and whichever others have rows: ended runs cost a scan, and no more."""
    events = f'"{schema}".events'
    named = " union ".join(f'select run from "{schema}".{table}' for table in _TABLES)
    return f"""select b.stream from {events} b where b.type = 'RunStarted' and b.version = 1
            and not exists (select from {events} x where x.stream = b.stream and x.type in ({ENDED}))
        union {named}"""


async def _examine(log: Snapshot, runs: Sequence[UUID], nodes: Nodes) -> list[Fault]:
    standing = f"""select s.run, b.position, exists (select from "{log.schema}".events x
            where x.stream = s.run and x.type in ({ENDED})), exists (select from "{log.schema}".events a
            where a.stream = s.run and a.type = '{ARCHIVED}')
        from unnest(%s::uuid[]) s(run)
        left join "{log.schema}".events b on b.stream = s.run and b.version = 1 and b.type = 'RunStarted'"""
    closed, opened = dict[UUID, str](), list[UUID]()
    for run, begun, ended, archived in await log.session.fetch(standing, (list(runs),)):
        if begun is not None and not ended:
            opened.append(run)
        else:
            closed[run] = (
                "the run was archived" if archived else "the run has ended" if ended else "there is no such run"
            )
    there = await _rows_of(log, runs)
    faults: list[Fault] = []
    for run, why in closed.items():
        faults += _all_of(run, there[run], why)
    expected, unreadable = await read_expected(log, opened)
    log.remarks.extend(f"run {run} cannot be checked: {why}" for run, why in unreadable.items())
    causes, told = await _causes(log, expected), await read_told(log, list(expected))
    now = (await log.session.fetch(_NOW))[0][0]
    for run, meant in expected.items():
        _leave_open(meant, there[run], causes.get(run))
        await _forgive(log, meant, there[run], now)
        faults += _differences(meant, there[run])
        faults += check_assigned(meant, there[run][TABLE], told, nodes)
    return faults


async def _rows_of(log: Snapshot, runs: Sequence[UUID]) -> Mapping[UUID, Rows]:
    found: defaultdict[UUID, Rows] = defaultdict(lambda: {table: {} for table in _TABLES})
    for table, (apart, columns) in _TABLES.items():
        statement = (
            f'select run, {apart or "null"}, {", ".join(columns)} from "{log.schema}".{table} where run = any(%s)'
        )
        async for page in log.pages(statement, (list(runs),), 10_000):
            for run, subject, *values in page:
                found[run][table][subject] = dict(zip(columns, values, strict=True))
    return found


async def _causes(log: Snapshot, runs: Mapping[UUID, Expected]) -> dict[UUID, int]:
    """Where in the log what started each run stands: from there its waits count."""
    causes = {each.event_id or start_stream(run): run for run, each in runs.items() if each.rows["waits"]}
    rows = await log.session.fetch(
        f"""select stream, position from "{log.schema}".events
            where stream = any(%s) and version = 1 and type in ('EventPublished', 'StartRequested')
        union all select stream, lower(positions) from "{log.schema}".archived where stream = any(%s)""",
        (list(causes), list(causes)),
    )
    return {causes[stream]: position for stream, position in rows}


def _leave_open(meant: Expected, there: Rows, cause: int | None) -> None:
    """What the log alone does not decide is as the rows have it."""
    for row in meant.rows["open_runs"].values():
        # A node that looks at it in vain does no harm; one that does not look, where it has to, does.
        known = [each["parked"] for each in there["open_runs"].values()]
        row["parked"] = meant.is_parked and (known[0] if known else True)
    for row in (*there["open_runs"].values(), *there["waits"].values()):
        meant.found_key(row["key"])
    for trigger, wait in meant.rows["waits"].items():
        own = wait["armed_at"]
        if cause is not None and cause < own:
            wait["armed_at"] = cause
        # One that was started directly counts from its own start, even if it had been asked for before.
        if there["waits"].get(trigger, {}).get("armed_at") == own:
            wait["armed_at"] = own


async def _forgive(log: Snapshot, meant: Expected, there: Rows, now: datetime) -> None:
    """A timer that fired, and from which nothing followed, was deleted without a word in the log."""
    missing = [timer for timer in meant.due(now) if timer not in there["timers"]]
    if missing:
        for timer in await useless_of(log, meant.run, missing):
            del meant.rows["timers"][timer]


def _differences(meant: Expected, there: Rows) -> list[Fault]:
    faults = []
    for table, (apart, _) in _TABLES.items():
        if table == TABLE:
            continue
        for subject in {**there[table], **meant.rows[table]}:
            where = {"run": meant.run, **({apart: subject} if apart else {})}
            fault = compared(table, where, there[table].get(subject), meant.rows[table].get(subject))
            if fault is not None:
                faults.append(fault._replace(lost=_lost(meant, fault)))
    return faults


def _lost(meant: Expected, fault: Fault) -> str:
    is_missing = fault.there is None and "key" in (fault.log or {})
    return KEY_LOST if is_missing and meant.is_keyed and not meant.has_key else ""


def _all_of(run: UUID, there: Rows, why: str) -> list[Fault]:
    return [
        Fault(table, {"run": run, **({apart: subject} if (apart := _TABLES[table][0]) else {})}, row, None, why)
        for table, rows in there.items()
        for subject, row in rows.items()
    ]
