"""The projections against a real Postgres: what the views say, and that every event counts once."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_engine.run import events as e
from perdure_engine.run.codec import encode
from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.database import open_engine
from perdure_eventstore.door import Json
from perdure_eventstore.errors import LogUnavailable
from perdure_eventstore.events import NO_STREAM
from perdure_eventstore.feed import Feed
from perdure_projections import folding, queries, runner
from perdure_projections import runs as runs_view
from perdure_projections import tasks as tasks_view
from perdure_projections.builtin import BUILTIN
from perdure_projections.folding import Step
from perdure_projections.projection import Projection
from perdure_projections.runner import ProjectionRunner
from perdure_projections.runs import RUNS
from perdure_projections.tasks import TASKS

START = datetime(2026, 1, 1, tzinfo=UTC)
NODE, OTHER_NODE = UUID(int=1), UUID(int=2)
SCHEMA = "perdure"

Recorded = tuple[UUID, e.RunEvent]


class Log:
    """Writes events straight into the log: the moment counts up by a second an event, unless it is given."""

    def __init__(self, url: str, schema: str = SCHEMA) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.connection.execute(f'set search_path to "{schema}"')
        self._versions: dict[UUID, int] = {}

    def record(self, *recorded: Recorded, erased: bool = False, at: Sequence[datetime] = ()) -> int:
        """Record events and return the last position."""
        return [self._record(run, event, erased, moment) for (run, event), moment in self._timed(recorded, at)][-1]

    def rows(self, table: str, order: str = "1, 2") -> list[dict[str, Any]]:
        """All rows of a table."""
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(f"select * from {table} order by {order}".encode()).fetchall()

    @property
    def end(self) -> int:
        """The last position."""
        row = self.connection.execute("select coalesce(max(position), 0) from events").fetchone()
        assert row is not None
        return int(row[0])

    def _timed(
        self, recorded: Sequence[Recorded], at: Sequence[datetime]
    ) -> list[tuple[Recorded, datetime]]:  # fmt: skip
        after = sum(self._versions.values())
        moments = at or [START + timedelta(seconds=after + n) for n in range(len(recorded))]
        return list(zip(recorded, moments, strict=True))

    def _record(self, run: UUID, event: e.RunEvent, erased: bool, at: datetime) -> int:
        new, version = encode(event, b"{}"), self._versions.get(run, 0) + 1
        self._versions[run] = version
        payload, large = new.payload, len(new.payload or b"") > 8192
        row = self.connection.execute(
            """insert into events (recorded_at, stream, version, schema_version, id, type, data, metadata, payload,
                payload_digest, hash) values (%s, %s, %s, %s, %s, %s, %s, '{}', %s, %s, '') returning position""",
            (
                at,
                run,
                version,
                new.schema_version,
                uuid4(),
                new.type,
                new.data.decode(),
                None if erased or large else payload,
                b"digest",
            ),
        ).fetchone()
        if large and not erased:
            self.connection.execute("insert into payloads values (%s, %s, %s)", (run, version, payload))
        assert row is not None
        return int(row[0])


@pytest.fixture
def log(database_url: str) -> Iterator[Log]:
    log = Log(database_url)
    yield log
    log.connection.close()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(database_url)
    yield engine
    await engine.dispose()


@contextlib.asynccontextmanager
async def projecting(
    engine: AsyncEngine, projections: Sequence[Projection] = BUILTIN, schema: str = SCHEMA
) -> AsyncIterator[ProjectionRunner]:
    """A runner that folds only when it is told to."""
    made = ProjectionRunner(engine, Feed(engine, schema), schema, projections)
    yield made
    await made.close()


async def fold_all(engine: AsyncEngine, log: Log, projections: Sequence[Projection] = BUILTIN) -> None:
    async with projecting(engine, projections) as made:
        while Step.MORE in await made.run_once(log.end):
            pass


def chain(run: UUID, steps: int = 2) -> list[Recorded]:
    """A run that completes, one task after the other."""
    events: list[e.RunEvent] = [e.RunStarted(workflow_id="chain", digest="d")]
    for n in range(steps):
        events.append(e.TaskScheduled(task_id=f"step-{n}", attempt=1, inputs=Json(b"{}")))
        events.append(e.TaskStarted(task_id=f"step-{n}", attempt=1, node=NODE))
        events.append(e.TaskCompleted(task_id=f"step-{n}", attempt=1))
    return [(run, event) for event in (*events, e.RunCompleted())]


def second(n: int) -> datetime:
    return START + timedelta(seconds=n)


# What the views say


async def test_a_run_from_its_start_to_its_end(engine: AsyncEngine, log: Log) -> None:
    run, started = UUID(int=7), e.RunStarted(workflow_id="w", digest="d", event="user_registered", key="ada")
    row = {"run": run, "workflow_id": "w", "digest": "d", "key": "ada", "event": "user_registered"}
    log.record((run, started), (run, e.TaskScheduled(task_id="a", attempt=1)))
    await fold_all(engine, log)
    open_row = row | {"status": "open", "started_at": second(0), "ended_at": None, "error": None}
    assert log.rows("runs") == [open_row | {"tasks": 1, "events": 2, "version": 2}]

    log.record((run, e.TaskScheduled(task_id="a", attempt=2)), (run, e.RunStopping(outcome="cancelled", reason="r")))
    await fold_all(engine, log)
    assert log.rows("runs") == [open_row | {"status": "stopping", "tasks": 1, "events": 4, "version": 4}]

    log.record((run, e.TaskCancelled(task_id="a", attempt=2)), (run, e.RunCancelled(reason="not wanted")))
    log.record((run, e.EventIgnored(event="late", event_id=uuid4(), reason="the run is cancelled")))
    await fold_all(engine, log)
    ended = {"status": "cancelled", "ended_at": second(5), "error": "not wanted"}
    assert log.rows("runs") == [open_row | ended | {"tasks": 1, "events": 7, "version": 7}]


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        (e.RunCompleted(output=Json(b"1")), "completed", None),
        (e.RunFailed(tasks=("a", "b")), "failed", "a, b failed"),
        (e.RunFailed(error=Json(b'{"type":"T","message":"no output"}')), "failed", "no output"),
        (e.RunFailed(), "failed", None),
        (e.RunTimedOut(), "timed_out", "its deadline passed"),
        (e.RunCancelled(), "cancelled", None),
    ],
)
async def test_how_a_run_ends(
    engine: AsyncEngine, log: Log, end: e.RunEvent, status: str, error: str | None
) -> None:  # fmt: skip
    run = uuid4()
    log.record((run, e.RunStarted(workflow_id="w", digest="d")), (run, end))
    await fold_all(engine, log)
    [row] = log.rows("runs")
    assert (row["status"], row["error"], row["ended_at"]) == (status, error, second(1))


@pytest.mark.parametrize(
    ("data", "payload", "key"),
    [
        ({"key": "ada"}, b'{"input":{"key":"other"}}', "ada"),
        ({"key": "ada"}, None, "ada"),
        ({}, b'{"key":"ad\xc3\xa4","input":1}', "adä"),
        ({}, b'{"key":"ada","input":"' + b"x" * 20_000 + b'"}', "ada"),
        ({}, b'{"input":{"key":"other"}}', None),
        ({}, None, None),
        ({}, b"", None),
        ({}, b"\x01{\xff not text", None),
    ],
    ids=["version 1", "version 1, erased", "version 2", "large", "none", "erased", "empty", "encrypted"],
)
async def test_the_key_of_a_run_whatever_its_start_was_written_as(
    engine: AsyncEngine, log: Log, data: dict[str, str], payload: bytes | None, key: str | None
) -> None:
    run, large = uuid4(), len(payload or b"") > 8192
    log.connection.execute(
        """insert into events (recorded_at, stream, version, schema_version, id, type, data, metadata, payload, hash)
        values (now(), %s, 1, 1, gen_random_uuid(), 'RunStarted', %s, '{}', %s, '')""",
        (run, orjson.dumps({"workflow_id": "w", "digest": "d", **data}).decode(), None if large else payload),
    )
    if large:
        log.connection.execute("insert into payloads values (%s, 1, %s)", (run, payload))
    await fold_all(engine, log)
    assert [row["key"] for row in log.rows("runs")] == [key]


async def test_an_error_that_is_no_text_leaves_the_views_without_one(engine: AsyncEngine, log: Log) -> None:
    run = uuid4()
    log.record((run, e.RunStarted(workflow_id="w", digest="d")), (run, e.TaskScheduled(task_id="a", attempt=1)))
    for version, (type_, data) in enumerate((("TaskFailed", '{"task_id":"a","attempt":1}'), ("RunFailed", "{}")), 3):
        log.connection.execute(
            """insert into events (recorded_at, stream, version, schema_version, id, type, data, metadata, payload,
                hash) values (now(), %s, %s, 1, gen_random_uuid(), %s, %s, '{}', %s, '')""",
            (run, version, type_, data, b"\x01{\xff not text"),
        )
    await fold_all(engine, log)
    assert [(row["status"], row["error"]) for row in log.rows("runs")] == [("failed", None)]
    assert [(row["status"], row["error"]) for row in log.rows("tasks")] == [("failed", None)]


async def test_streams_that_are_no_runs_have_no_row(engine: AsyncEngine, log: Log) -> None:
    log.connection.execute(
        """insert into events (recorded_at, stream, version, schema_version, id, type, data, metadata, hash)
        values (now(), gen_random_uuid(), 1, 1, gen_random_uuid(), 'EventPublished', '{}', '{}', '')"""
    )
    await fold_all(engine, log)
    assert log.rows("runs") == log.rows("tasks") == []


async def test_a_task_that_needs_three_attempts(engine: AsyncEngine, log: Log) -> None:
    run, retry_at = UUID(int=7), second(100)
    fresh = dict.fromkeys(["ended_at", "retry_at", "node", "reason", "error", "started_at"])
    log.record((run, e.TaskScheduled(task_id="a", attempt=1)))
    await fold_all(engine, log)
    expected = {"run": run, "task_id": "a", "status": "scheduled", "attempt": 1, "failures": 0, "interruptions": 0}
    expected |= fresh | {"scheduled_at": second(0)}
    assert log.rows("tasks") == [expected]

    log.record((run, e.TaskStarted(task_id="a", attempt=1, node=NODE)))
    log.record((run, e.TaskFailed(task_id="a", attempt=1, retry_at=retry_at, error=Json(b'{"message":"no"}'))))
    await fold_all(engine, log)
    expected |= {"status": "retrying", "failures": 1, "started_at": second(1), "retry_at": retry_at, "error": "no"}
    assert log.rows("tasks") == [expected | {"node": NODE}]

    log.record((run, e.TaskScheduled(task_id="a", attempt=2)), (run, e.TaskStarted(task_id="a", attempt=2, node=NODE)))
    log.record((run, e.TaskInterrupted(task_id="a", attempt=2, node=NODE)))
    await fold_all(engine, log)
    expected |= {"status": "interrupted", "attempt": 2, "interruptions": 1, "retry_at": None}
    assert log.rows("tasks") == [expected | {"scheduled_at": second(3), "started_at": second(4), "node": NODE}]

    log.record((run, e.TaskScheduled(task_id="a", attempt=3)))
    log.record((run, e.TaskStarted(task_id="a", attempt=3, node=OTHER_NODE)))
    log.record((run, e.TaskCompleted(task_id="a", attempt=3)))
    await fold_all(engine, log)
    expected |= {"status": "completed", "attempt": 3, "node": OTHER_NODE, "ended_at": second(8)}
    assert log.rows("tasks") == [expected | {"scheduled_at": second(6), "started_at": second(7)}]


@pytest.mark.parametrize(
    ("event", "status", "reason", "error"),
    [
        (e.TaskSkipped(task_id="a", reason="`when` is false"), "skipped", "`when` is false", None),
        (e.TaskCancelled(task_id="a", attempt=1), "cancelled", None, None),
        (e.TaskTimedOut(task_id="a", attempt=1, timeout=1.5), "failed", None, "it took longer than 1.5 s"),
        (e.TaskTimedOut(task_id="a", attempt=1, timeout=60.0), "failed", None, "it took longer than 60 s"),
        (e.TaskFailed(task_id="a", attempt=0, error=Json(b'"boom"')), "failed", None, "boom"),
        (e.TaskFailed(task_id="a", attempt=0, error=Json(b'{"code": 5}')), "failed", None, '{"code": 5}'),
        (e.TaskFailed(task_id="a", attempt=0), "failed", None, None),
    ],
)
async def test_how_a_task_ends(
    engine: AsyncEngine, log: Log, event: e.RunEvent, status: str, reason: str | None, error: str | None
) -> None:
    log.record((uuid4(), event))
    await fold_all(engine, log)
    [row] = log.rows("tasks")
    assert (row["status"], row["reason"], row["error"], row["ended_at"]) == (status, reason, error, second(0))


async def test_the_message_of_a_large_payload_and_of_an_erased_one(engine: AsyncEngine, log: Log) -> None:
    large = Json.of({"message": "large", "trace": "x" * 10_000})
    log.record((uuid4(), e.TaskFailed(task_id="large", attempt=1, error=large)))
    log.record((uuid4(), e.TaskFailed(task_id="erased", attempt=1, error=Json(b'{"message":"secret"}'))), erased=True)
    await fold_all(engine, log)
    assert [(row["task_id"], row["error"]) for row in log.rows("tasks", "task_id")] == [
        ("erased", None),
        ("large", "large"),
    ]


# Wherever the log is cut

moments = st.integers(0, 9).map(second)
task_ids, attempts = st.sampled_from("ab"), st.integers(1, 3)
errors = st.sampled_from([Json(b"null"), Json(b'{"message":"x"}'), Json(b'"y"')])
maybe_retry = st.none() | moments
happenings = st.one_of(
    st.builds(e.TaskScheduled, task_id=task_ids, attempt=attempts),
    st.builds(e.TaskStarted, task_id=task_ids, attempt=attempts, node=st.sampled_from([NODE, OTHER_NODE])),
    st.builds(e.TaskCompleted, task_id=task_ids, attempt=attempts),
    st.builds(e.TaskFailed, task_id=task_ids, attempt=attempts, retry_at=maybe_retry, error=errors),
    st.builds(e.TaskTimedOut, task_id=task_ids, attempt=attempts, timeout=st.just(2.0), retry_at=maybe_retry),
    st.builds(e.TaskInterrupted, task_id=task_ids, attempt=attempts, node=st.just(NODE)),
    st.builds(e.TaskSkipped, task_id=task_ids, reason=st.just("dead")),
    st.builds(e.TaskCancelled, task_id=task_ids, attempt=attempts),
    st.builds(e.RunStopping, outcome=st.just("failed"), reason=st.just("r")),
    st.builds(e.RunFailed, tasks=st.just(("a",)), error=st.none() | errors),
    st.builds(e.RunCompleted),
    st.builds(e.EventIgnored, event=st.just("x"), event_id=st.just(NODE), reason=st.just("r")),
)


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[int, e.RunEvent, datetime]]:
    """What happens to two runs, in any order that names a run's start first and ends it once at most."""
    happened: list[tuple[int, e.RunEvent, datetime]] = []
    open_runs: dict[int, bool] = {}
    for run, event, at in draw(st.lists(st.tuples(st.integers(0, 1), happenings, moments), min_size=15, max_size=40)):
        if run not in open_runs:
            happened.append((run, e.RunStarted(workflow_id="w", digest="d"), at))
        elif isinstance(event, e.RUN_ENDED) and not open_runs[run]:
            continue
        open_runs[run] = open_runs.get(run, True) and not isinstance(event, e.RUN_ENDED)
        happened.append((run, event, at))
    return happened


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happened=logs(), cuts=st.sets(st.integers(1, 45)), erased=st.sets(st.integers(0, 45), max_size=5))
def test_the_rows_are_the_same_wherever_the_log_is_cut(
    log: Log, happened: list[tuple[int, e.RunEvent, datetime]], cuts: set[int], erased: set[int]
) -> None:
    names, first = [uuid4() for _ in range(2)], log.end
    for n, (run, event, at) in enumerate(happened):
        log.record((names[run], event), erased=n in erased, at=[at])
    whole = fold_in_pieces(log, [first, log.end])
    every_one = fold_in_pieces(log, list(range(first, log.end + 1)))
    some = fold_in_pieces(log, [first, *sorted(cut + first for cut in cuts if cut + first < log.end), log.end])
    assert whole == every_one == some
    assert sum(row["events"] for row in whole[0]) == len(happened)


def fold_in_pieces(log: Log, cuts: Sequence[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    log.connection.execute("truncate runs, tasks")
    for first, last in pairwise(cuts):
        for statement in (runs_view.STATEMENT, tasks_view.STATEMENT):
            log.connection.execute(statement.encode(), {"first": first, "last": last})
    return log.rows("runs"), log.rows("tasks")


# Each event counts once


async def test_batches_follow_each_other_to_the_mark(
    engine: AsyncEngine, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "BATCH", 3)
    log.record(*chain(uuid4()))
    async with projecting(engine, [RUNS]) as made:
        assert [await made.run_once(7) for _ in range(4)] == [[Step.MORE], [Step.MORE], [Step.DONE], [Step.IDLE]]
        assert [row["events"] for row in log.rows("runs")] == [7]
        assert await made.run_once(8) == [Step.DONE]
    assert [(row["events"], row["status"]) for row in log.rows("runs")] == [(8, "completed")]


async def test_two_runners_at_once_count_once(
    engine: AsyncEngine, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(folding, "BATCH", 5)
    counted = counting("counts", log)
    for _ in range(20):
        log.record(*chain(uuid4()))
    steps: list[list[Step]] = []

    async def fold(made: ProjectionRunner) -> None:
        while Step.MORE in (step := await made.run_once(log.end)) or Step.BUSY in step:
            steps.append(step)

    async with contextlib.AsyncExitStack() as stack:
        runners = [await stack.enter_async_context(projecting(engine, (counted, *BUILTIN))) for _ in range(3)]
        await asyncio.gather(*(fold(made) for made in runners))
    assert any(Step.BUSY in step for step in steps)
    assert sum(row["events"] for row in log.rows("runs")) == log.end
    assert sum(row["n"] for row in log.rows("counts", "1")) == log.end


async def test_a_runner_does_not_wait_for_another(engine: AsyncEngine, log: Log) -> None:
    log.record(*chain(uuid4()))
    async with projecting(engine) as first, projecting(engine) as second:
        await first.run_once(0)
        with log.connection.transaction():
            log.connection.execute("select from projections where name = 'runs' for update")
            async with asyncio.timeout(5):
                assert await second.run_once(log.end) == [Step.BUSY, Step.DONE]
        assert log.rows("runs") == []


async def test_a_runner_killed_between_its_rows_and_its_checkpoint_counts_once(engine: AsyncEngine, log: Log) -> None:
    log.record(*chain(uuid4()))
    deaths = iter(["select pg_terminate_backend(pg_backend_pid())"])

    async def apply(connection: AsyncConnection[Any], first: int, last: int) -> None:
        await RUNS.apply(connection, first, last)
        for death in deaths:
            await connection.execute(death)

    async with projecting(engine, [replaced(RUNS, apply)]) as made:
        with pytest.raises(LogUnavailable):
            await made.run_once(log.end)
        assert log.rows("runs") == []
        assert await made.run_once(log.end) == [Step.DONE]
    assert [row["events"] for row in log.rows("runs")] == [8]
    assert [row["error"] for row in log.rows("projections", "1")] == [None]


async def test_a_checkpoint_moved_by_somebody_else_takes_the_rows_with_it(engine: AsyncEngine, log: Log) -> None:
    log.record(*chain(uuid4()))

    async def apply(connection: AsyncConnection[Any], first: int, last: int) -> None:
        await RUNS.apply(connection, first, last)
        await connection.execute("update projections set position = 3")

    async with projecting(engine, [replaced(RUNS, apply)]) as made:
        assert await made.run_once(log.end) == [Step.BUSY]
    assert log.rows("runs") == []


def counting(table: str, log: Log) -> Projection:
    """A projection of the user's own, which would count an event twice if it met it twice."""
    log.connection.execute(f"create table {table} (n bigint)".encode())

    async def apply(connection: AsyncConnection[Any], first: int, last: int) -> None:
        counted = "select count(*) from events where position > %s and position <= %s"
        await connection.execute(f"insert into {table} {counted}".encode(), (first, last))

    return Projection(table, 1, (), (table,), apply)


def replaced(projection: Projection, apply: Any, version: int = 1) -> Projection:
    return Projection(projection.name, version, projection.types, projection.tables, apply)


# One that fails


def refusing(bad: set[int], version: int = TASKS.version) -> Projection:
    """The tasks, as long as no event at a position in ``bad`` is among them."""

    async def apply(connection: AsyncConnection[Any], first: int, last: int) -> None:
        await TASKS.apply(connection, first, last)
        if any(first < position <= last for position in bad):
            await connection.execute("select 1/0")

    return replaced(TASKS, apply, version)


async def test_a_projection_that_fails_stops_and_says_at_which_event_and_the_others_go_on(
    engine: AsyncEngine, log: Log
) -> None:
    run, bad = uuid4(), {6, 11}
    log.record(*chain(run), *chain(uuid4()))
    async with projecting(engine, (refusing(bad), RUNS)) as made:
        assert await made.run_once(log.end) == [Step.STOPPED, Step.DONE]
        stopped, going = (await queries.list_projections(engine, SCHEMA))[::-1]
        assert (stopped.name, stopped.position, stopped.behind) == ("tasks", 5, 11)
        assert stopped.error == f"position 6 (TaskStarted, version 6 of stream {run}): DivisionByZero: division by zero"
        assert (going.name, going.position, going.behind, going.error) == ("runs", 16, 0, None)
        # What came before the bad event is there.
        assert [(row["task_id"], row["status"]) for row in log.rows("tasks")] == [
            ("step-0", "completed"),
            ("step-1", "scheduled"),
        ]
        # It is not tried again at once.
        bad.clear()
        assert await made.run_once(log.end) == [Step.STOPPED, Step.IDLE]


async def test_a_stopped_projection_is_tried_again_later_with_one_event(
    engine: AsyncEngine, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_FIRST_RETRY", 0.01)
    bad = {6}
    log.record(*chain(uuid4()))
    async with projecting(engine, [refusing(bad)]) as made:
        assert await made.run_once(log.end) == [Step.STOPPED]
        await asyncio.sleep(0.02)
        bad.clear()
        assert [await made.run_once(log.end) for _ in range(3)] == [[Step.MORE], [Step.DONE], [Step.IDLE]]
    assert [row["error"] for row in log.rows("projections", "1")] == [None]
    assert {row["status"] for row in log.rows("tasks")} == {"completed"}


async def test_a_failure_that_does_not_come_again_stops_nothing(engine: AsyncEngine, log: Log) -> None:
    log.record(*chain(uuid4()))
    failures = iter(["select 1/0", "select 1/0"])

    async def apply(connection: AsyncConnection[Any], first: int, last: int) -> None:
        await TASKS.apply(connection, first, last)
        for failure in failures:
            await connection.execute(failure)

    async with projecting(engine, [replaced(TASKS, apply)]) as made:
        assert [await made.run_once(log.end) for _ in range(2)] == [[Step.MORE], [Step.DONE]]
    assert [(row["task_id"], row["failures"], row["status"]) for row in log.rows("tasks")] == [
        ("step-0", 0, "completed"),
        ("step-1", 0, "completed"),
    ]


async def test_the_pauses_between_tries_grow(engine: AsyncEngine, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_FIRST_RETRY", 0.0)
    log.record(*chain(uuid4()))
    async with projecting(engine, [refusing({1})]) as made:
        await made.run_once(log.end)
        monkeypatch.setattr(runner, "_FIRST_RETRY", 9.0)
        made._retries["tasks"] = runner._Retry(0.0, 40.0)
        await made.run_once(log.end)
        assert made._retries["tasks"].pause == runner._LAST_RETRY


NEWER = TASKS.version + 1


async def test_a_new_version_is_tried_at_once_and_the_old_one_stands_back(engine: AsyncEngine, log: Log) -> None:
    log.record(*chain(uuid4()))
    async with projecting(engine, [refusing({6})]) as old, projecting(engine, [refusing(set(), NEWER)]) as new:
        assert await old.run_once(log.end) == [Step.STOPPED]
        assert await new.run_once(log.end) == [Step.DONE]
        old._retries.clear()
        assert await old.run_once(log.end + 1) == [Step.SUPERSEDED]
    [row] = log.rows("projections", "1")
    assert (row["version"], row["position"], row["error"]) == (NEWER, 8, None)


async def test_an_error_at_commit_stops_it_too(engine: AsyncEngine, log: Log) -> None:
    log.connection.execute("create table once (n int unique deferrable initially deferred)")
    log.record(*chain(uuid4()))

    async def apply(connection: AsyncConnection[Any], first: int, last: int) -> None:
        await connection.execute("insert into once values (1), (1)")

    async with projecting(engine, [Projection("once", 1, (), ("once",), apply), RUNS]) as made:
        assert await made.run_once(log.end) == [Step.STOPPED, Step.DONE]
    assert "UniqueViolation" in log.rows("projections")[0]["error"]


# In the background


@contextlib.asynccontextmanager
async def background(*loops: Any) -> AsyncIterator[None]:
    running = [asyncio.create_task(loop) for loop in loops]
    yield
    for task in running:
        task.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*running, return_exceptions=True)
    )


async def test_the_views_follow_the_log_and_fold_rather_seldom(
    engine: AsyncEngine, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STAND_BY", 0.01)
    monkeypatch.setattr(runner, "_SHORTEST", 0.5)
    feed, appender = Feed(engine, interval=0.01), Appender(engine)
    made, rounds = ProjectionRunner(engine, feed, SCHEMA, BUILTIN), 0
    run_once = made.run_once

    async def counted(mark: int) -> list[Step]:
        nonlocal rounds
        rounds += 1
        return await run_once(mark)

    begun = time.monotonic()
    made.run_once = counted  # type: ignore[method-assign]
    async with background(feed.run(), appender.run(), made.run()):
        async with asyncio.timeout(10):
            for _ in range(30):
                run = uuid4()
                done = await appender.append(Append(run, NO_STREAM, [encode(event, b"{}") for _, event in chain(run)]))
                await asyncio.sleep(0.01)
            while any(row["position"] < done.positions[-1] for row in log.rows("projections")):
                await asyncio.sleep(0.01)
    elapsed = time.monotonic() - begun
    assert (len(log.rows("runs")), len(log.rows("tasks"))) == (30, 60)
    assert rounds <= elapsed / 0.5 + 3


async def test_catching_up_waits_for_all_but_those_that_stopped(engine: AsyncEngine, log: Log) -> None:
    feed = Feed(engine, interval=0.01)
    log.record(*chain(uuid4()))
    async with background(feed.run()), projecting(engine) as unfed:
        made = ProjectionRunner(engine, feed, SCHEMA, BUILTIN)
        assert await made.catch_up(8) == []
        assert [row["status"] for row in log.rows("runs")] == ["completed"]
        await made.close()

        other = ProjectionRunner(engine, feed, SCHEMA, [refusing({12}), RUNS])
        log.record(*chain(uuid4()))
        assert await other.catch_up(11) == []
        assert await other.catch_up(16) == ["tasks"]
        await other.close()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await unfed.catch_up(17)


async def test_a_runner_takes_over_from_one_that_is_gone(
    engine: AsyncEngine, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STAND_BY", 0.01)
    feed = Feed(engine, interval=0.01)
    log.record(*chain(uuid4()))
    async with projecting(engine) as first:
        await first.run_once(0)
    with log.connection.transaction():
        log.connection.execute("select from projections for update")
        async with background(feed.run(), ProjectionRunner(engine, feed, SCHEMA, BUILTIN).run()):
            await asyncio.sleep(0.2)
            assert log.rows("runs") == []
            # No event comes any more: the runner has to look by itself.
            log.connection.execute("rollback")
            async with asyncio.timeout(5):
                while not log.rows("tasks"):
                    await asyncio.sleep(0.01)
            log.connection.execute("begin")


# Reading the views


async def test_lag_is_a_number_anyone_can_read(engine: AsyncEngine, log: Log) -> None:
    log.record(*chain(uuid4()))
    async with projecting(engine) as made:
        await made.run_once(3)
    assert [(row["name"], row["version"], row["position"], row["error"]) for row in log.rows("projections")] == [
        ("runs", RUNS.version, 3, None),
        ("tasks", TASKS.version, 3, None),
    ]
    listed = await queries.list_projections(engine, SCHEMA)
    assert [(row.name, row.behind) for row in listed] == [("runs", 5), ("tasks", 5)]
    assert all(row.updated_at.tzinfo is not None for row in listed)


async def test_runs_are_listed_the_latest_first_and_found_by_prefix(engine: AsyncEngine, log: Log) -> None:
    first, last, third = UUID(int=0xAB << 120), UUID(int=0xAC << 120), UUID(int=0xAD << 120)
    log.record(*chain(third), *chain(first))
    log.record((last, e.RunStarted(workflow_id="w", digest="d")))
    await fold_all(engine, log)

    def ids(rows: list[queries.RunRow]) -> list[UUID]:
        return [row.run for row in rows]

    assert ids(await queries.list_runs(engine, SCHEMA)) == [last, first, third]
    assert ids(await queries.list_runs(engine, SCHEMA, limit=1)) == [last]
    assert ids(await queries.list_runs(engine, SCHEMA, status="completed")) == [first, third]
    assert ids(await queries.list_runs(engine, SCHEMA, status="completed", workflow="w")) == []
    assert ids(await queries.list_runs(engine, SCHEMA, workflow="w")) == [last]
    assert ids(await queries.find_runs_by_prefix(engine, SCHEMA, "a")) == [first, last, third]
    assert ids(await queries.find_runs_by_prefix(engine, SCHEMA, "AC00-")) == [last]
    assert ids(await queries.find_runs_by_prefix(engine, SCHEMA, "ff")) == []
    newest = await queries.last_run(engine, SCHEMA)
    assert newest == await queries.get_run(engine, SCHEMA, last)
    assert newest is not None and newest.status == "open"
    assert await queries.get_run(engine, SCHEMA, uuid4()) is None
    assert [task.task_id for task in await queries.get_tasks(engine, SCHEMA, first)] == ["step-0", "step-1"]


async def test_another_schema_has_views_of_its_own(engine: AsyncEngine, log: Log, database_url: str) -> None:
    config = Config(Path(__file__).parents[2] / "alembic.ini")
    async with engine.begin() as connection:

        def migrate(sync: Any) -> None:
            config.attributes.update(connection=sync, schema="My App")
            command.upgrade(config, "head")

        await connection.run_sync(migrate)
    other = Log(database_url, "My App")
    run = uuid4()
    other.record(*chain(run))
    async with projecting(engine, schema="My App") as made:
        assert await made.run_once(8) == [Step.DONE, Step.DONE]
    assert [row.run for row in await queries.list_runs(engine, "My App")] == [run]
    assert [row.behind for row in await queries.list_projections(engine, "My App")] == [0, 0]
    assert await queries.last_run(engine, SCHEMA) is None
    other.connection.close()
