"""A checker of histories: was anything that was promised broken?

It is given the whole log, the working set as it stands, and what clients were told; it knows nothing of how the
engine works, only what may never be seen. Every finding is a sentence.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import psycopg

from perdure_eventstore.events import NO_STREAM, RecordedEvent
from perdure_eventstore.verify import check_event

END_OF_RUN = frozenset({"RunCompleted", "RunFailed", "RunTimedOut", "RunCancelled"})
END_OF_ATTEMPT = frozenset({"TaskCompleted", "TaskFailed", "TaskTimedOut", "TaskInterrupted", "TaskCancelled"})
MAY_FOLLOW_THE_END = END_OF_ATTEMPT | {"EventIgnored"}


class Wait(NamedTuple):
    """A row of ``waits``: a run, and which of its triggers still may come true."""

    run: UUID
    trigger: int


class History(NamedTuple):
    """The log in the order of position, and the working set read in the same snapshot."""

    events: Sequence[RecordedEvent]
    open_runs: Sequence[UUID] = ()
    timers: Sequence[tuple[UUID, str]] = ()
    waits: Sequence[Wait] = ()


class Told(NamedTuple):
    """What clients know: acknowledged publishes by event id, starts by run id, outputs by (run, task)."""

    published: Mapping[UUID, Any] = {}
    started: Sequence[UUID] = ()
    outputs: Sequence[tuple[UUID, str, Any]] = ()


class Attempt(NamedTuple):
    """One attempt as the checker follows it."""

    number: int
    state: str


def read_history(url: str, schema: str = "perdure") -> History:
    """Everything, in one snapshot."""
    with psycopg.connect(url) as connection:
        connection.execute("set transaction isolation level repeatable read")
        connection.adapters.register_loader("json", psycopg.types.string.ByteaLoader)

        def rows(select: str) -> list[Any]:
            return connection.execute(select.replace("SCHEMA", f'"{schema}"').encode()).fetchall()

        events = rows(
            "select position, recorded_at, stream, e.version, schema_version, id, type, data::text::bytea,"
            " metadata::text::bytea, coalesce(e.payload, p.payload), payload_salt, payload_digest, hash"
            " from SCHEMA.events e left join SCHEMA.payloads p using (stream, version) order by position"
            if False
            else "select e.position, e.recorded_at, e.stream, e.version, e.schema_version, e.id, e.type,"
            " convert_to(e.data::text, 'UTF8'), convert_to(e.metadata::text, 'UTF8'), coalesce(e.payload, p.payload),"
            " e.payload_salt, e.payload_digest, e.hash from SCHEMA.events e"
            " left join SCHEMA.payloads p on p.stream = e.stream and p.version = e.version order by e.position"
        )
        return History(
            [RecordedEvent._make(row) for row in events],
            [run for (run,) in rows("select run from SCHEMA.open_runs")],
            [(run, timer) for run, timer in rows("select run, timer from SCHEMA.timers")],
            [Wait(run, trigger) for run, trigger in rows("select run, trigger from SCHEMA.waits")],
        )
