"""A checker of histories: was anything that was promised broken?

It is given the whole log, the working set as it stands, and what clients were told. It knows nothing of how the
engine works, only what may never be seen. Every finding is a sentence.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import psycopg
from acceptance.event_checker import check_event
from acceptance.run_checker import RunChecker, data_of, payload_of
from psycopg.types.string import ByteaLoader

from perdure_eventstore.events import NO_STREAM, Head, RecordedEvent
from perdure_eventstore.keeper import KEEPING


class History(NamedTuple):
    """The log in the order of position, and the working set of the same snapshot."""

    events: Sequence[RecordedEvent]
    open_runs: Sequence[UUID] = ()
    timers: Sequence[tuple[UUID, str]] = ()
    waits: Sequence[tuple[UUID, int]] = ()
    paused: Sequence[UUID] = ()
    parked: Sequence[UUID] = ()
    """Of the open runs, those that are said to be."""
    held: Sequence[tuple[UUID, str]] = ()
    """Of the timers, those that wait for their run to be resumed."""
    assignments: Sequence[tuple[UUID, str, int, UUID]] = ()
    permits: Sequence[tuple[str, UUID, str]] = ()
    inbox: Sequence[tuple[UUID, str]] = ()


class Told(NamedTuple):
    """What clients know: payloads of acknowledged publishes by event id, runs started, outputs by (run, task)."""

    published: Mapping[UUID, Any] = {}
    started: Sequence[UUID] = ()
    outputs: Sequence[tuple[UUID, str, Any]] = ()


def read_history(url: str, schema: str = "perdure") -> History:
    """Everything, in one snapshot."""
    with psycopg.connect(url) as connection:
        connection.execute("set transaction isolation level repeatable read")
        connection.adapters.register_loader("json", ByteaLoader)

        def rows(select: str) -> list[Any]:
            return connection.execute(select.replace("SCHEMA", f'"{schema}"').encode()).fetchall()

        events = rows(
            "select e.position, e.recorded_at, e.stream, e.version, e.schema_version, e.id, e.type,"
            " convert_to(e.data::text, 'UTF8'), convert_to(e.metadata::text, 'UTF8'), coalesce(e.payload, p.payload),"
            " e.payload_salt, e.payload_digest, e.hash from SCHEMA.events e"
            " left join SCHEMA.payloads p on p.stream = e.stream and p.version = e.version order by e.position"
        )
        return History(
            [RecordedEvent._make(row) for row in events],
            [run for (run,) in rows("select run from SCHEMA.open_runs")],
            rows("select run, timer from SCHEMA.timers"),
            rows("select run, trigger from SCHEMA.waits"),
            [run for (run,) in rows("select run from SCHEMA.open_runs where paused")],
            [run for (run,) in rows("select run from SCHEMA.open_runs where parked")],
            rows("select run, timer from SCHEMA.timers where held"),
            rows("select run, task_id, attempt, node from SCHEMA.assignments"),
            rows("select key, run, task_id from SCHEMA.permits"),
            rows("select run, kind from SCHEMA.inbox"),
        )


def check(history: History, told: Told | None = None, *, at_rest: bool = True) -> list[str]:
    """Everything that is wrong. ``at_rest``: nothing is under way, so what was published must have arrived."""
    told = told or Told()
    runs = _runs(history.events)
    return [
        *_chains(history.events),
        *_doubled(history.events),
        *(finding for run in runs.values() for finding in run.findings),
        *_published(history.events, runs, told, at_rest),
        *_outputs(runs, told),
        *_working_set(history, runs),
        *_flags(history, runs),
        *_elsewhere(history, runs, at_rest),
    ]


def runs_of(history: History) -> dict[UUID, RunChecker]:
    """Every run, followed to its last event."""
    return _runs(history.events)


def assert_kept(url: str, told: Told | None = None, *, at_rest: bool = True) -> History:
    """Read the history behind ``url`` and fail with every finding."""
    history = read_history(url)
    findings = check(history, told, at_rest=at_rest)
    assert not findings, "\n".join(findings)
    return history


def _runs(events: Sequence[RecordedEvent]) -> dict[UUID, RunChecker]:
    runs: dict[UUID, RunChecker] = {}
    for event in events:
        if event.type.startswith(("EventPublished", "StartRequested", "EventRouted", "Definition")):
            continue
        if event.type in KEEPING:
            continue
        runs.setdefault(event.stream, RunChecker(event.stream)).see(event)
    return runs


def _chains(events: Sequence[RecordedEvent]) -> Iterator[str]:
    heads: defaultdict[UUID, Head] = defaultdict(lambda: NO_STREAM)
    position = 0
    for event in events:
        if event.position <= position:
            yield f"position {event.position} comes after position {position}"
        position = event.position
        if (fault := check_event(event, heads[event.stream])) is not None:
            yield str(fault)
        heads[event.stream] = event.head


def _doubled(events: Sequence[RecordedEvent]) -> Iterator[str]:
    for id_, count in Counter(event.id for event in events).items():
        if count > 1:
            yield f"event {id_} is in the log {count} times"
    facts = Counter((event.type, event.stream) for event in events if event.type in ("EventPublished", "EventRouted"))
    for (type_, stream), count in facts.items():
        if count > 1:
            yield f"event {stream} has {count} {type_}"


def _published(
    events: Sequence[RecordedEvent], runs: Mapping[UUID, RunChecker], told: Told, at_rest: bool
) -> Iterator[str]:
    """Whether every acknowledged event is there as it was given, and reached whom it was routed to, once."""
    recorded = {event.stream: event for event in events if event.type == "EventPublished"}
    routed = {event.stream: event for event in events if event.type == "EventRouted"}
    for id_, payload in told.published.items():
        if id_ not in recorded:
            yield f"event {id_} was acknowledged and is not in the log"
        elif payload_of(recorded[id_]).get("payload") != payload:
            yield f"event {id_} is not as it was acknowledged"
    for id_ in recorded if at_rest else ():
        if id_ not in routed:
            yield f"event {id_} was published and never routed"
    for id_, event in routed.items():
        yield from _matches(id_, event, runs, at_rest)
    starts = Counter((run.event_id, run.workflow_id) for run in runs.values() if run.event_id is not None)
    for (event_id, workflow_id), count in starts.items():
        if count > 1:
            yield f"event {event_id} started {count} runs of {workflow_id}"


def _matches(id_: UUID, event: RecordedEvent, runs: Mapping[UUID, RunChecker], at_rest: bool) -> Iterator[str]:
    for match in data_of(event).get("matches", ()):
        if match["outcome"] == "ignored":
            continue
        run = runs.get(UUID(match["run"]))
        if run is None:
            yield f"event {id_} was routed to run {match['run']}, which is not in the log"
        elif match["outcome"] == "started" and run.event_id != id_:
            yield f"event {id_} started run {run.run_id}, which names event {run.event_id}"
        elif match["outcome"] == "delivered" and at_rest and id_ not in run.received:
            yield f"event {id_} was routed to run {run.run_id} and never reached it"


def _outputs(runs: Mapping[UUID, RunChecker], told: Told) -> Iterator[str]:
    for run_id in told.started:
        if run_id not in runs:
            yield f"the start of run {run_id} was acknowledged and is not in the log"
    for run_id, task_id, output in told.outputs:
        outputs = runs[run_id].outputs if run_id in runs else {}
        if task_id not in outputs:
            yield f"run {run_id}: the output of {task_id} was acknowledged and is not in the log"
        elif outputs[task_id] != output:
            yield f"run {run_id}: the output of {task_id} was acknowledged as {orjson.dumps(output).decode()[:100]}"


def _working_set(history: History, runs: Mapping[UUID, RunChecker]) -> Iterator[str]:
    open_runs = {run_id for run_id, run in runs.items() if not run.ended}
    for run_id, count in Counter(history.open_runs).items():
        if count > 1:
            yield f"run {run_id} is open {count} times in the working set"
    for run_id in open_runs - set(history.open_runs):
        yield f"run {run_id} is open, and the working set does not say so"
    for run_id in set(history.open_runs) - open_runs:
        yield f"run {run_id} is in the working set, and is not open"
    for run_id in open_runs:
        for timer in runs[run_id].timers - {timer for run, timer in history.timers if run == run_id}:
            yield f"run {run_id} has no timer {timer}"
        for trigger in runs[run_id].waits - {trigger for run, trigger in history.waits if run == run_id}:
            yield f"run {run_id} waits for trigger {trigger}, and the working set does not say so"
    for run_id in {run for run, _ in (*history.timers, *history.waits)} - open_runs:
        yield f"run {run_id} has timers or waits, and is not open"


def _flags(history: History, runs: Mapping[UUID, RunChecker]) -> Iterator[str]:
    """Whether what the working set says of pauses is so, and nothing is parked for which a node has to do something."""
    open_runs = [run for run in history.open_runs if run in runs and not runs[run].ended]
    for run_id in open_runs:
        if runs[run_id].paused != (run_id in history.paused):
            yield f"run {run_id} is{'' if runs[run_id].paused else ' not'} paused, and the working set does not say so"
        if run_id in history.parked and not runs[run_id].may_be_parked:
            yield f"run {run_id} is parked, and there is something to do for it"
    held, paused = set(history.held), {run for run in open_runs if runs[run].paused}
    for run_id, timer in history.timers:
        if run_id in open_runs and ((run_id, timer) in held) != (run_id in paused and timer != "deadline"):
            yield f"timer {timer} of run {run_id} is{'' if (run_id, timer) in held else ' not'} held"


def _elsewhere(history: History, runs: Mapping[UUID, RunChecker], at_rest: bool) -> Iterator[str]:
    """Whether what other nodes execute, and what may begin, is under way; ``at_rest`` nothing is."""
    for run_id, task_id, attempt, node in history.assignments:
        task = runs[run_id].tasks.get(task_id) if run_id in runs else None
        if task is None or (task.state, task.attempt) != ("started", attempt):
            yield f"run {run_id}: attempt {attempt} of {task_id} is assigned, and is not under way"
        elif str(node) != task.node:
            yield f"run {run_id}: attempt {attempt} of {task_id} is assigned to {node}, and started on {task.node}"
    permits = Counter((run, task) for _, run, task in history.permits)
    for run_id, run in runs.items():
        for task_id, task in run.tasks.items():
            if task.key is not None and task.state == "started" and not permits[run_id, task_id]:
                yield f"run {run_id}: {task_id} is under way without a permit of its key"
            elif at_rest and task.state != "started" and permits[run_id, task_id]:
                yield f"run {run_id}: {task_id} has a permit, and is not under way"
    for run_id, kind in history.inbox if at_rest else ():
        if run_id not in runs or not runs[run_id].ended:
            yield f"run {run_id}: {kind} waits in the inbox"
