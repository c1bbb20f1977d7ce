"""The rows of schedules: what commits beside a schedule's events, and how it is read."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from perdure_engine.identity import shard_of
from perdure_engine.schedules.schedule import Backfill, Schedule, Waiting
from perdure_engine.work import Rows
from perdure_eventstore.events import Head
from perdure_eventstore.keeper import ERASED
from perdure_eventstore.session import Session


class _Waiting(msgspec.Struct, frozen=True, omit_defaults=True):
    """The column ``waiting``."""

    queue: tuple[datetime, ...] = ()
    backlog: tuple[Waiting, ...] = ()
    backfills: tuple[Backfill, ...] = ()


_decode = msgspec.json.Decoder(_Waiting).decode
_NOTHING = _Waiting()
COLUMNS = (
    "name", "workflow_id", "cron", "timezone", "overlap", "catch_up", "set_by", "paused", "next_due", "last_due",
    "last_run",
)  # fmt: skip
"""Those that are fields of a Schedule, by the same name."""


class Known(NamedTuple):
    """A schedule, and the head of its stream that made it so."""

    schedule: Schedule
    head: Head
    is_open: bool
    """Its last run has not ended."""


def row_of(schedule: UUID, state: Schedule | None, *, tell: bool) -> Rows:
    """What commits with the events that made ``schedule`` what ``state`` is; ``tell``: its node is told to look."""
    row: dict[str, Any] = {"schedule": schedule}
    if state is not None:
        waiting = _Waiting(state.queue, state.backlog, state.backfills)
        row |= {column: getattr(state, column) for column in COLUMNS}
        row |= {"shard": shard_of(schedule), "has_more": state.has_more}
        row["waiting"] = None if waiting == _NOTHING else msgspec.to_builtins(waiting)
    rows: Rows = {"schedules": [row]}
    if tell:
        rows["inbox"] = [{"run": schedule, "shard": shard_of(schedule), "kind": "schedule", "event": None}]
    return rows


class ScheduleRows:
    """Reads them."""

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        columns = ", ".join(f"s.{column}" for column in ("schedule", *COLUMNS, "waiting"))
        # The row and the head of its stream in one snapshot: they commit together. With "exists" in the place of the
        # second lateral, Postgres may choose to read all open runs.
        self._read = f"""select {columns}, h.version, h.hash, o.run is not null
            from "{schema}".schedules s cross join lateral (
                select version, hash from "{schema}".events e
                where e.stream = s.schedule order by version desc limit 1) h
            left join lateral (select run from "{schema}".open_runs r where r.run = s.last_run limit 1) o on true"""
        self._due = f"""{self._read} where s.shard = any(%s) and not s.paused and s.next_due <= %s
            union all {self._read} where s.shard = any(%s) and s.has_more and s.next_due > %s"""
        self._next = f"""select min(first.next_due) from unnest(%s::smallint[]) as mine (shard)
            cross join lateral (select next_due from "{schema}".schedules s where s.shard = mine.shard and not s.paused
                                and s.next_due > %s order by next_due limit 1) first"""
        self._erased = f"""select exists (
            select from "{schema}".events where stream = %s and type = '{ERASED}')"""
        self._started = f'select distinct stream from "{schema}".events where stream = any(%s)'

    async def now(self) -> datetime:
        """The database's time."""
        found: datetime = (await self._session.fetch("select clock_timestamp()"))[0][0]
        return found.astimezone(UTC)

    async def all(self) -> list[Known]:
        """Every schedule, by name."""
        return [_known(row) for row in await self._session.fetch(f"{self._read} order by s.name")]

    async def get(self, schedule: UUID) -> Known | None:
        """One of them."""
        rows = await self._session.fetch(f"{self._read} where s.schedule = %s", (schedule,))
        return _known(rows[0]) if rows else None

    async def due(self, shards: Sequence[int], at: datetime) -> list[Known]:
        """Those of ``shards`` that are to be looked at."""
        rows = await self._session.fetch(self._due, (list(shards), at, list(shards), at))
        return [_known(row) for row in rows]

    async def next_due(self, shards: Sequence[int], after: datetime) -> datetime | None:
        """When one of ``shards`` is due first after ``after``."""
        found: datetime | None = (await self._session.fetch(self._next, (list(shards), after)))[0][0]
        return found

    async def is_erased(self, schedule: UUID) -> bool:
        """Whether payloads of it were erased."""
        found: bool = (await self._session.fetch(self._erased, (schedule,)))[0][0]
        return found

    async def started(self, runs: Sequence[UUID]) -> set[UUID]:
        """Those of ``runs`` that there are."""
        return {row[0] for row in await self._session.fetch(self._started, (list(runs),))} if runs else set()


def _known(row: Sequence[Any]) -> Known:
    schedule, *columns, waiting, version, hash_, is_open = row
    left = _NOTHING if waiting is None else _decode(waiting)
    fields = {name: _utc(value) for name, value in zip(COLUMNS, columns, strict=True)}
    state = Schedule(id=schedule, **fields, queue=left.queue, backlog=left.backlog, backfills=left.backfills)
    return Known(state, Head(version, hash_), is_open)


def _utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value
