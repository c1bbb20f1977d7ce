"""The working set of imported events: what a node finds afterwards, as if they had happened here.

Rows go in with the events that cause them (see ``work``), folded a batch at a time: of what several events write and
take away again, the last counts. What belongs to events that are here already is left out by the database.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from perdure_engine.definitions.compile import compile_definition
from perdure_engine.definitions.document import read_document
from perdure_engine.facts import decode_fact
from perdure_engine.faults import DefinitionRefused
from perdure_engine.identity import start_stream
from perdure_engine.run.codec import EVENT_TYPES, decode
from perdure_engine.run.events import RunEvent, RunStarted
from perdure_engine.schedules.refold import rewrite
from perdure_engine.work import Rows, work_of
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.session import Borrowed
from perdure_eventstore.transfer.entry import TransferRefused
from perdure_eventstore.transfer.importing import Companion

_SUBJECTS = {"opened": None, "closed": None, "timers": "timer", "cleared": "timer", "waits": "trigger",
             "disarmed": "trigger", "paused": "run"}  # fmt: skip
"""By table, what a row is about beside its run: rows about the same overwrite each other."""


class ImportedWork(Companion):
    """``import_with_work``: the events, and the rows they leave behind."""

    def __init__(self, schema: str = "perdure") -> None:
        super().__init__(schema)
        self._call("import_with_work", 1)
        self._strangers = f"""select r.run, e.data ->> 'digest' from "{schema}".open_runs r
            join "{schema}".events e on e.stream = r.run and e.version = 1
            where r.started_at >= %s and not exists (
                select from "{schema}".definitions d where d.digest = e.data ->> 'digest') limit 1"""
        self._nameless = f"""select r.run from "{schema}".open_runs r
            join "{schema}".events e on e.stream = r.run and e.version = 1
            where r.started_at >= %s and r.key is null and (e.data ->> 'keyed')::boolean limit 1"""
        # What was routed to a run and had not reached it when it was exported: its inbox is not in the log.
        self._letters = f"""insert into "{schema}".inbox (run, shard, kind, event)
            select r.run, r.shard, 'event', e.stream
            from "{schema}".events e
            cross join lateral json_array_elements(e.data -> 'matches') with ordinality m(met, n)
            join "{schema}".open_runs r on r.run = (m.met ->> 'run')::uuid
            where e.position >= %s and e.type = 'EventRouted' and m.met ->> 'outcome' = 'delivered'
                and not exists (select from "{schema}".events l where l.stream = r.run
                    and l.type in ('EventLatched', 'EventIgnored') and (l.data ->> 'event_id')::uuid = e.stream)
                and not exists (select from "{schema}".inbox i where i.run = r.run and i.event = e.stream)
            order by e.position, m.n"""
        # Within a batch the timers that a paused run set are not known to be.
        self._hold = f"""update "{schema}".timers t set held = true from "{schema}".open_runs r
            where r.started_at >= %s and r.paused and t.run = r.run and t.timer <> 'deadline' and not t.held"""
        self._adopt = f"""insert into "{schema}".inbox (run, shard, kind)
            select run, shard, 'started' from "{schema}".open_runs where started_at >= %s"""
        self._hint = f"select pg_notify('{schema}', '')"

    def parameters(self, events: Sequence[RecordedEvent]) -> list[bytes | None]:
        """The rows, before what import_batch takes. Raises TransferRefused for an event that cannot be read."""
        fold = _Fold()
        for number, event in enumerate(events, 1):
            try:
                fold.take(number, event)
            except (ValueError, KeyError, DefinitionRefused) as error:
                raise TransferRefused(f"a {event.type} that this Perdure cannot read: {error}", number) from error
        rows = fold.rows()
        return [orjson.dumps(rows) if rows else None]

    async def finish(self, connection: AsyncConnection[Any], first: int) -> None:
        """Have the nodes take up what is open. Raises TransferRefused for a run that could not go on here."""
        found = await (await connection.execute(self._strangers.encode(), (first,))).fetchone()
        if found is not None:
            raise TransferRefused(
                f"run {found[0]} has not ended, and its definition (digest {found[1]}) is not here: "
                "export it together with its definition"
            )
        found = await (await connection.execute(self._nameless.encode(), (first,))).fetchone()
        if found is not None:
            raise TransferRefused(f"run {found[0]} has not ended, and its key cannot be read")
        for statement in (self._hold, self._letters, self._adopt):
            await connection.execute(statement.encode(), (first,))
        await rewrite(Borrowed(connection), self.schema, first)
        await connection.execute(self._hint.encode())


class _Fold:
    """What the events of a batch leave behind; each row's "a" is the number of the event that causes it."""

    def __init__(self) -> None:
        self._runs: defaultdict[UUID, dict[tuple[str | None, Any], tuple[str, dict[str, Any]]]] = defaultdict(dict)
        self._others: Rows = {}

    def take(self, number: int, event: RecordedEvent) -> None:
        """Raises ValueError, KeyError, DefinitionRefused."""
        if event.type in EVENT_TYPES:
            self._take_run(number, event)
        elif event.type == "DefinitionRegistered":
            self._add("registered", number, definition_row(event))
        elif event.type == "DefinitionRetired":
            self._add("retirements", number, {"workflow_id": decode_fact(event).workflow_id})

    def _take_run(self, number: int, event: RecordedEvent) -> None:
        happened, run = _read(event), event.stream
        for table, rows in work_of(run, [happened]).items():
            for row in rows:
                self._put(table, number, row)
        if isinstance(happened, RunStarted) and happened.waits:
            # Its waits count from what started it: an event, a request, or else its own beginning.
            self._add("armed", number, {"run": run, "event_id": happened.event_id or start_stream(run)})

    def _put(self, table: str, number: int, row: dict[str, Any]) -> None:
        subject, about = _SUBJECTS[table], self._runs[row["run"]]
        if table == "closed":
            about.clear()
        about[subject, row[subject] if subject else None] = (table, {"a": number, **row})

    def _add(self, table: str, number: int, row: dict[str, Any]) -> None:
        self._others.setdefault(table, []).append({"a": number, **row})

    def rows(self) -> Rows:
        """By table."""
        found = dict(self._others)
        for about in self._runs.values():
            for table, row in about.values():
                found.setdefault(table, []).append(row)
        return found


def _read(event: RecordedEvent) -> RunEvent:
    """``event`` as far as it matters here. Of the payload, which may be large, only a run's key does.

    A payload that is no text is not read: the database says so if such a run is open and has a key.
    """
    payload = event.payload if event.type == RunStarted.__name__ else None
    return decode(event._replace(payload=payload if payload and payload.startswith(b"{") else None))


def definition_row(event: RecordedEvent) -> dict[str, Any]:
    """The row that a DefinitionRegistered leaves. Raises ValueError, DefinitionRefused."""
    fact = decode_fact(event)
    document = fact.payload.text.decode()
    definition = compile_definition(read_document(document), allow_unknown_types=True)
    return {
        "workflow_id": fact.workflow_id,
        "number": fact.number,
        "digest": fact.digest,
        "document": document,
        "events": sorted(definition.entries.union(definition.listeners)),
        "keyed": definition.key is not None,
    }
