"""How far the router has come, which shards there are, and what callers' transactions may have left behind."""

from collections.abc import AsyncIterator, Sequence

from perdure_engine.doctor.faults import Fault
from perdure_engine.doctor.snapshot import Snapshot
from perdure_engine.identity import SHARDS
from perdure_engine.limits import is_left_over


async def check_router(log: Snapshot, only: Sequence[Fault] | None = None) -> AsyncIterator[Fault]:
    """The router's place: within the log, and behind nothing that was not routed. Raises LogError.

    ``only`` where it was wrong before: then the event that it passed over is known, and the log need not be searched.
    """
    if only is not None and not any(fault.table == "router" for fault in only):
        return
    events = f'"{log.schema}".events'
    known = [fault.log["position"] + 1 for fault in only or () if fault.table == "router" and fault.log]
    place = await log.session.fetch(f'select position from "{log.schema}".router where id = 1')
    (end,) = (await log.session.fetch(f"select coalesce(max(position), 0) from {events}"))[0]
    position = place[0][0] if place else None
    (first,) = (
        await log.session.fetch(
            f"""select min(e.position) from {events} e
            where e.type in ('EventPublished', 'StartRequested') and e.version = 1 and e.position <= %s
                and (%s::bigint[] is null or e.position = any(%s))
                and not exists (select from {events} r where r.stream = e.stream and r.type = 'EventRouted')""",
            (end if position is None else position, known or None, known),
        )
    )[0]
    there = None if position is None else {"position": position}
    if first is not None:
        yield Fault("router", {"id": 1}, there, {"position": first - 1}, f"the event at {first} was not routed")
    elif position is None:
        yield Fault("router", {"id": 1}, None, {"position": end}, "all that was published was routed")
    elif position > end:
        yield Fault("router", {"id": 1}, there, {"position": end}, "there it ends")


async def check_shards(log: Snapshot, only: Sequence[Fault] | None = None) -> AsyncIterator[Fault]:
    """That every shard is there. That a node has gone without giving its shards back is no fault. Raises LogError."""
    if only is not None and not any(fault.table == "shards" for fault in only):
        return
    rows = await log.session.fetch(
        f"""select s.shard, s.node is not null and s.lease_until > clock_timestamp() and n.node is null
        from "{log.schema}".shards s left join "{log.schema}".nodes n using (node)"""
    )
    there = {shard for shard, _ in rows}
    for shard in sorted({*range(SHARDS)} - there):
        yield Fault("shards", {"shard": shard}, None, {}, f"there are {SHARDS}")
    for shard in sorted(there - {*range(SHARDS)}):
        yield Fault("shards", {"shard": shard}, {}, None, f"there are {SHARDS}")
    if strange := sorted(shard for shard, is_strange in rows if is_strange):
        log.remarks.append(f"leased to nodes that are not there: shard {', '.join(map(str, strange))}")


async def check_permits(log: Snapshot, only: Sequence[Fault] | None = None) -> AsyncIterator[Fault]:
    """That no permit outlives its run: others would wait for it for ever. Raises LogError."""
    if only is not None and not any(fault.table == "permits" for fault in only):
        return
    left = f'select key, run, task_id from "{log.schema}".permits p where {is_left_over(log.schema)}'
    async for page in log.pages(left, (), 1_000):
        for key, run, task_id in page:
            yield Fault("permits", {"key": key, "run": run, "task_id": task_id}, {}, None, "the run has ended")


async def check_staged(log: Snapshot, only: Sequence[Fault] | None = None) -> AsyncIterator[Fault]:
    """That no transaction left behind what it was to move as it committed. Raises LogError."""
    if only is not None and not any(fault.table in ("staged", "staging") for fault in only):
        return
    why = "its transaction is over"
    staged = f'select xact::text, number, stream, types from "{log.schema}".staged'
    async for page in log.pages(staged, (), 1_000):
        for xact, number, stream, types in page:
            yield Fault("staged", {"xact": xact, "number": number}, {"stream": stream, "types": types}, None, why)
    async for page in log.pages(f'select xact::text, step from "{log.schema}".staging', (), 1_000):
        for xact, step in page:
            yield Fault("staging", {"xact": xact, "step": step}, {}, None, why)
