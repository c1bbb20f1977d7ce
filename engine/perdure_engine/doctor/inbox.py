"""The inbox: an event that was delivered to a run lies there until the run has recorded that it saw it.

Commands from outside (a cancel, the adoption of a run) are in no log before they are decided on: they are only held
against the runs there are.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from perdure_engine.doctor.faults import Fault
from perdure_engine.doctor.snapshot import ENDED, Snapshot
from perdure_engine.identity import SHARDS, shard_of

_PAGE = 1_000

_TWICE, _SEEN, _NOT_DELIVERED, _NO_RUN = 1, 2, 3, 4
_WHY = {
    _TWICE: "the event was delivered to the run once",
    _SEEN: "the run has recorded the event",
    _NOT_DELIVERED: "the event was not delivered to the run",
    _NO_RUN: "there is no such run",
}


async def check_inbox(log: Snapshot, only: Sequence[Fault] | None = None) -> AsyncIterator[Fault]:
    """Whatever is wrong with the inbox; ``only`` of these, found before. Raises LogError."""
    ids = None if only is None else [f.where["id"] for f in only if f.table == "inbox" and "id" in f.where]
    events = None if only is None else [f.where["event"] for f in only if f.table == "inbox" and "id" not in f.where]
    async for fault in _wrong(log, ids):
        yield fault
    async for fault in _missing(log, events):
        yield fault


async def _wrong(log: Snapshot, ids: Sequence[int] | None) -> AsyncIterator[Fault]:
    async for page in log.pages(_rows(log.schema), (ids, ids), _PAGE):
        for id_, run, shard, kind, event, wrong in page:
            row: dict[str, Any] = {"run": run, "kind": kind, **({"event": event} if event else {})}
            if wrong:
                yield Fault("inbox", {"id": id_}, row, None, _WHY[wrong])
            elif shard != shard_of(run):
                yield Fault("inbox", {"id": id_}, {"shard": shard}, {"shard": shard_of(run)}, f"the run is {run}")


def _rows(schema: str) -> str:
    """Rows that are wrong, and why. What an archived event was delivered to is not in the log any more."""
    events = f'"{schema}".events'
    return f"""select * from (select i.id, i.run, i.shard, i.kind, i.event, case
            when i.kind in ('event', 'started') and not exists (
                select from {events} b where b.stream = i.run and b.version = 1 and b.type = 'RunStarted')
                then {_NO_RUN}
            when i.kind <> 'event' then 0
            when exists (select from {events} l where l.stream = i.run and {_is_about("l", "i.event")}) then {_SEEN}
            when not exists (select from {events} r
                cross join lateral json_array_elements(r.data -> 'matches') m(met)
                where r.stream = i.event and r.type = 'EventRouted' and m.met ->> 'outcome' = 'delivered'
                    and (m.met ->> 'run')::uuid = i.run)
                and not exists (select from "{schema}".archived a where a.stream = i.event) then {_NOT_DELIVERED}
            when exists (select from "{schema}".inbox j
                where j.run = i.run and j.shard = i.shard and j.event = i.event and j.kind = 'event' and j.id < i.id)
                then {_TWICE}
            else 0 end as wrong
        from "{schema}".inbox i where %s::bigint[] is null or i.id = any(%s)) judged
        where wrong > 0 or shard <> get_byte(uuid_send(run), 15) %% {SHARDS}"""


async def _missing(log: Snapshot, events: Sequence[UUID] | None) -> AsyncIterator[Fault]:
    async for page in log.pages(_delivered(log.schema), (events, events), _PAGE):
        for event, run in page:
            meant = {"shard": shard_of(run), "kind": "event"}
            why = "the event was delivered to the run, which has not recorded it"
            yield Fault("inbox", {"run": run, "event": event}, None, meant, why)


def _delivered(schema: str) -> str:
    """What was delivered to runs that are open, was not seen by them, and is not in their inbox."""
    events = f'"{schema}".events'
    return f"""select d.event, d.run from (
            select r.stream as event, (m.met ->> 'run')::uuid as run
            from {events} r cross join lateral json_array_elements(r.data -> 'matches') m(met)
            where r.type = 'EventRouted' and m.met ->> 'outcome' = 'delivered'
                and (%s::uuid[] is null or r.stream = any(%s))) d
        join {events} b on b.stream = d.run and b.version = 1 and b.type = 'RunStarted'
        where not exists (select from {events} x where x.stream = d.run and x.type in ({ENDED}))
            and not exists (select from "{schema}".inbox i where i.run = d.run and i.event = d.event)
            and not exists (select from {events} l where l.stream = d.run and {_is_about("l", "d.event")})"""


def _is_about(alias: str, event: str) -> str:
    return f"""{alias}.type in ('RunStarted', 'EventLatched', 'EventIgnored')
        and ({alias}.data ->> 'event_id')::uuid = {event}"""
