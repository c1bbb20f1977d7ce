"""The check of tables against each other: rows that belong to nothing."""

from typing import Any
from uuid import UUID

from perdure_eventstore.checking.faults import Fault, fault_of
from perdure_eventstore.session import Session

_BATCH = 2_000


async def check_tables(session: Session, schema: str) -> Fault | None:
    """The first row of payloads or of the tree that belongs to nothing. Raises LogError."""
    return await _check_payloads(session, schema) or await _check_nodes(session, schema)


async def _check_payloads(session: Session, schema: str) -> Fault | None:
    page = f"""select p.stream, p.version, e.position, e.type, e.payload is not null, e.payload_digest is not null
        from (select stream, version from "{schema}".payloads where (stream, version) > (%s, %s)
            order by stream, version limit {_BATCH}) p
        left join "{schema}".events e on e.stream = p.stream and e.version = p.version order by 1, 2"""
    after: tuple[Any, int] = (UUID(int=0), 0)
    while rows := await session.fetch(page, after):
        for stream, version, position, type_, beside, digest in rows:
            if position is None:
                return fault_of(f"stream {stream} has a payload at version {version}, and no event there")
            if beside:
                return Fault(position, stream, version, type_, "it has two payloads: one beside it and one apart")
            if not digest:
                return Fault(position, stream, version, type_, "it has a payload where none was recorded")
        after = rows[-1][:2]
    return None


async def _check_nodes(session: Session, schema: str) -> Fault | None:
    rows = await session.fetch(
        f"""select level, number from "{schema}".tree_nodes
        where level not between 9 and 62 or number < 0
            or (number + 1) << (level - 8) > coalesce((select max(number) + 1 from "{schema}".tree_chunks), 0)
        order by 1, 2 limit 1"""
    )
    for level, number in rows:
        return fault_of(f"node {number} of level {level} of the tree stands above chunks that are not there")
    return None
