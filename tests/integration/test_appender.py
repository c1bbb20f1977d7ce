"""Group commit: together to the disk, each with its own answer; a broken connection loses and doubles nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import anyio
import pytest
from breaking_proxy import BreakingProxy, Where, breaking_proxy
from logs import event, more, new_stream, opened, read_stream, reading, rows, running, superuser, until
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.append import Append, Appended, Statement
from perdure_eventstore.appender import MAX_EVENTS, Appender
from perdure_eventstore.errors import AppendRefused, Conflict, LogError, LogUnavailable, Raced
from perdure_eventstore.events import NO_STREAM, NewEvent
from perdure_eventstore.lane import Lane
from perdure_eventstore.session import Session

pytestmark = pytest.mark.every_postgres

MARKER = b"MarkedEvent"


class Counted(Statement):
    """How many appends went in each statement."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def parameters(self, batch: Sequence[Append]) -> list[Any]:
        self.sizes.append(len(batch))
        return super().parameters(batch)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with opened(database_url) as engine:
        yield engine


@pytest.fixture
async def proxied(database_url: str) -> AsyncIterator[tuple[AsyncEngine, BreakingProxy]]:
    async with breaking_proxy(database_url) as (url, proxy), opened(url) as engine:
        yield engine, proxy


async def together(appender: Appender, *appends: Append) -> list[Appended | LogError]:
    """Submit them in one turn of the loop, and wait for every answer."""
    answers = await asyncio.gather(*(appender.append(one) for one in appends), return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, Appended | LogError), answer
    return answers  # type: ignore[return-value]


async def total(engine: AsyncEngine) -> int:
    session = Session(engine)
    try:
        count: int = (await session.fetch("select count(*) from perdure.events"))[0][0]
        return count
    finally:
        await session.close()


def marked(**options: Any) -> Append:
    return Append(uuid4(), NO_STREAM, [event(MARKER.decode(), **options), event()])


async def test_many_callers_share_one_statement_and_one_commit(engine: AsyncEngine, database_url: str) -> None:
    statement = Counted()
    async with running(engine, statement=statement) as appender:
        appends = [new_stream(2) for _ in range(200)]
        answers = await together(appender, *appends)
    assert statement.sizes == [200]
    assert rows(database_url, "select count(*), count(distinct xmin::text) from perdure.events") == [(400, 1)]
    async with reading(engine) as reader:
        for one, answer in zip(appends, answers, strict=True):
            assert isinstance(answer, Appended)
            recorded = [item async for item in reader.stream(one.stream)]
            assert (recorded[-1].head, [item.position for item in recorded]) == (answer.head, list(answer.positions))


async def test_a_statement_has_no_more_events_than_its_limit_but_for_a_single_append(engine: AsyncEngine) -> None:
    statement = Counted()
    async with running(engine, statement=statement) as appender:
        sizes = [MAX_EVENTS // 2, MAX_EVENTS // 2, 1, 2 * MAX_EVENTS]
        assert all(isinstance(a, Appended) for a in await together(appender, *map(new_stream, sizes)))
    assert sorted(statement.sizes) == [1, 1, 2]


async def test_only_the_loser_of_a_conflict_is_told_and_the_rest_is_committed(engine: AsyncEngine) -> None:
    statement = Counted()
    async with running(engine, statement=statement) as appender:
        taken = new_stream()
        await appender.append(taken)
        mates = [new_stream() for _ in range(5)]
        answers = await together(appender, *mates[:2], new_stream(stream=taken.stream), *mates[2:])
    loser = answers.pop(2)
    assert isinstance(loser, Conflict)
    assert (loser.stream, loser.expected) == (taken.stream, 0)
    assert str(taken.stream) in str(loser)
    assert all(isinstance(answer, Appended) for answer in answers)
    assert statement.sizes == [1, 6]
    assert await total(engine) == 6


async def test_of_two_appends_for_one_place_in_one_turn_one_wins_and_their_mates_are_committed(
    engine: AsyncEngine,
) -> None:
    stream = uuid4()
    async with running(engine, patience=0.5) as appender:
        answers = await together(appender, new_stream(stream=stream), new_stream(), new_stream(stream=stream))
    assert [type(answer) for answer in answers] == [Appended, Appended, Conflict]
    assert len(await read_stream(engine, stream)) == 1


@pytest.mark.parametrize(
    "bad", [NewEvent("Bad", data=b"{"), NewEvent("\ud800"), NewEvent("Bad", schema_version=2**15)],
    ids=["Postgres refuses it", "it cannot be encoded", "it cannot be packed"],
)  # fmt: skip
async def test_a_poisonous_append_suffers_alone(engine: AsyncEngine, bad: NewEvent) -> None:
    async with running(engine) as appender:
        mates = [new_stream() for _ in range(4)]
        poison = Append(uuid4(), NO_STREAM, [event(), bad])
        answers = await together(appender, *mates[:2], poison, *mates[2:])
        assert isinstance(answers.pop(2), AppendRefused)
        assert all(isinstance(answer, Appended) for answer in answers)
        assert await read_stream(engine, poison.stream) == []
        await appender.append(new_stream())
    assert await total(engine) == 5


async def test_appenders_that_fight_for_one_stream_make_one_chain(database_url: str) -> None:
    stream, each = uuid4(), 15

    async def fight() -> None:
        async with opened(database_url) as engine, running(engine) as appender:
            won = 0
            while won < each:
                recorded = await read_stream(engine, stream)
                head = recorded[-1].head if recorded else NO_STREAM
                try:
                    await appender.append(more(stream, head))
                    won += 1
                except Conflict:
                    pass

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(fight)
    versions = rows(database_url, "select version from perdure.events order by position")
    assert [version for (version,) in versions] == list(range(1, 3 * each + 1))


@pytest.mark.parametrize("where", ["before the statement", "before the answer"])
async def test_a_connection_broken_around_the_commit_neither_loses_nor_doubles_an_append(
    proxied: tuple[AsyncEngine, BreakingProxy], where: Where
) -> None:
    engine, proxy = proxied
    async with running(engine) as appender:
        taken = new_stream()
        await appender.append(taken)
        one, mate, loser = marked(payload=b"x"), new_stream(3), new_stream(stream=taken.stream)
        proxy.break_next(MARKER, where)
        answers = await together(appender, one, mate, loser)
        assert proxy.broken == 1
        assert isinstance(answers[2], Conflict)
        for append, answer in zip((one, mate), answers, strict=False):
            assert isinstance(answer, Appended)
            recorded = await read_stream(engine, append.stream)
            assert [item.position for item in recorded] == list(answer.positions)
            assert recorded[-1].head == answer.head
            await appender.append(more(append.stream, answer.head))
    assert await total(engine) == 1 + 2 + 3 + 2


async def test_an_append_recorded_unawares_is_known_again_though_others_have_gone_on_from_it(
    proxied: tuple[AsyncEngine, BreakingProxy], database_url: str
) -> None:
    engine, proxy = proxied
    one = marked()
    proxy.break_next(MARKER, "before the answer")
    async with running(engine) as appender, opened(database_url) as other_engine, running(other_engine) as other:
        # A slow connection gives somebody else the time to append first.
        reconnect = appender._lanes[0]._session.connection
        before_reconnecting: list[int] = []

        async def go_on_first() -> Any:
            if proxy.broken and not before_reconnecting:
                recorded = await read_stream(other_engine, one.stream)
                before_reconnecting.append(len(recorded))
                await other.append(more(one.stream, recorded[-1].head))
            return await reconnect()

        for lane in appender._lanes:
            lane._session.connection = go_on_first  # type: ignore[method-assign]
            break
        answer = await appender.append(one)
    assert before_reconnecting == [2]
    assert answer.head.version == 2
    assert [item.version for item in await read_stream(engine, one.stream)] == [1, 2, 3]


async def test_an_unknown_outcome_after_a_race_is_still_settled_by_the_ids(
    proxied: tuple[AsyncEngine, BreakingProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, proxy = proxied
    once = Lane._send_once
    raced: list[Raced] = []

    async def race_first(lane: Lane, *arguments: Any, **options: Any) -> Any:
        if not raced:
            raced.append(Raced("somebody"))
            raise raced[0]
        return await once(lane, *arguments, **options)

    monkeypatch.setattr(Lane, "_send_once", race_first)
    proxy.break_next(MARKER, "before the answer")
    async with running(engine) as appender:
        one = marked()
        assert isinstance((await together(appender, one))[0], Appended)
    assert (len(raced), proxy.broken) == (1, 1)
    assert len(await read_stream(engine, one.stream)) == 2


async def test_a_backend_killed_mid_append_costs_nothing_but_a_moment(engine: AsyncEngine, database_url: str) -> None:
    one = new_stream(2)
    async with running(engine) as appender:
        await appender.append(new_stream())
        with superuser(database_url) as connection, superuser(database_url) as killer:
            # The append waits for this lock, so it is certainly under way when its backend is killed.
            connection.execute("begin")
            connection.execute("lock perdure.events in share mode")
            async with anyio.create_task_group() as group:
                group.start_soon(appender.append, one)
                kill = b"""select pg_terminate_backend(pid, 5000) from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock' and query like '%commit_batch%'"""
                await until(lambda: killer.execute(kill).fetchall() == [(True,)])
                connection.execute("rollback")
    assert len(await read_stream(engine, one.stream)) == 2
    assert await total(engine) == 3


async def test_every_connection_killed_again_and_again_loses_and_doubles_nothing(
    engine: AsyncEngine, database_url: str
) -> None:
    kill = b"""select pg_terminate_backend(pid, 1000) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()"""
    async with running(engine) as appender:
        with superuser(database_url) as killer:
            heads = {uuid4(): NO_STREAM for _ in range(20)}
            for _ in range(10):
                work = [asyncio.ensure_future(appender.append(more(s, h, 2))) for s, h in heads.items()]
                await asyncio.sleep(0.003)
                killer.execute(kill)
                heads = {a: (await w).head for a, w in zip(heads, work, strict=True)}
    assert [head.version for head in heads.values()] == [20] * 20
    assert await total(engine) == 400


async def test_a_database_that_cannot_be_reached_is_told_when_patience_runs_out() -> None:
    async with (
        opened("postgresql://nobody@/nothing?host=/nowhere") as engine,
        running(engine, patience=0.2) as appender,
    ):
        with pytest.raises(LogUnavailable, match="the database cannot be reached"):
            await appender.append(new_stream())


async def test_a_caller_that_gives_up_does_not_disturb_the_others(engine: AsyncEngine) -> None:
    async with running(engine) as appender:
        impatient = asyncio.ensure_future(appender.append(new_stream()))
        patient = asyncio.ensure_future(appender.append(new_stream()))
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await patient).head.version == 1
        await appender.drain()
    assert await total(engine) == 2


async def test_closing_answers_everybody_who_waits(engine: AsyncEngine, database_url: str) -> None:
    with superuser(database_url) as connection:
        connection.execute("begin")
        connection.execute("lock perdure.events in share mode")
        async with anyio.create_task_group() as group:
            async with running(engine) as appender:
                under_way = [asyncio.ensure_future(appender.append(new_stream())) for _ in range(3)]
                await until(lambda: bool(connection.execute("select from pg_locks where not granted").fetchall()))
                for size in (MAX_EVENTS, MAX_EVENTS, 1):
                    under_way.append(asyncio.ensure_future(appender.append(new_stream(size))))
                    await asyncio.sleep(0.01)
            answers = await asyncio.wait_for(asyncio.gather(*under_way, return_exceptions=True), 5)
            connection.execute("rollback")
            group.cancel_scope.cancel()
    assert [type(answer) for answer in answers] == [LogUnavailable] * 6
    assert {str(answer) for answer in answers} == {
        "the log was closed before this was recorded",
        "the log was closed before this was known to be recorded",
    }


async def test_after_closing_an_append_is_refused_at_once_and_nothing_is_left_to_drain(engine: AsyncEngine) -> None:
    async with running(engine) as appender:
        await appender.append(new_stream())
    with anyio.fail_after(2):
        with pytest.raises(LogUnavailable, match="the log was closed before this was recorded"):
            await appender.append(new_stream())
        await appender.drain()
    assert await total(engine) == 1


async def test_drain_waits_for_all_that_was_submitted(engine: AsyncEngine) -> None:
    answered: list[Any] = []
    async with running(engine) as appender:
        for size in (1, MAX_EVENTS, MAX_EVENTS, 1):
            appender.submit(new_stream(size), answered.append)
        await appender.drain()
        assert len(answered) == 4


async def test_a_session_used_by_several_tasks_at_first_opens_one_connection(engine: AsyncEngine) -> None:
    session = Session(engine)
    await asyncio.gather(*(session.fetch("select 1") for _ in range(5)))
    assert session.opened == 1
    await session.close()


async def test_many_large_payloads_go_in_several_statements(engine: AsyncEngine) -> None:
    appender = Appender(engine)
    payload = b'"' + b"x" * (15 * 1024 * 1024) + b'"'
    appends = [Append(uuid4(), NO_STREAM, [NewEvent("Happened", payload=payload)]) for _ in range(6)]
    for append in appends:
        appender.submit(append, lambda result: None)
    assert [len(appender._take()), len(appender._take())] == [4, 2]


async def test_appends_to_several_streams_are_recorded_all_or_none_and_the_loser_is_named(
    engine: AsyncEngine, database_url: str
) -> None:
    async with running(engine) as appender:
        taken = new_stream()
        head = (await appender.append(taken)).head
        group = [new_stream(2), more(taken.stream, head), new_stream()]
        appended = await appender.append_together(group)
        assert [len(each.positions) for each in appended] == [2, 1, 1]
        late = [new_stream(), more(taken.stream, head), new_stream()]
        answers = await asyncio.gather(
            appender.append_together(late), appender.append(new_stream()), return_exceptions=True
        )
        assert isinstance(answers[0], Conflict) and answers[0].stream == taken.stream
        assert isinstance(answers[1], Appended)
    assert await total(engine) == 1 + 4 + 1


@pytest.mark.parametrize("where", ["before the statement", "before the answer"])
async def test_several_together_whose_connection_broke_in_commit_are_recorded_once(
    proxied: tuple[AsyncEngine, BreakingProxy], where: Where
) -> None:
    engine, proxy = proxied
    async with running(engine) as appender:
        await appender.append(new_stream())
        proxy.break_next(MARKER, where)
        group = [Append(uuid4(), NO_STREAM, [event(MARKER.decode())]) for _ in range(3)]
        appended = await appender.append_together(group)
        assert proxy.broken == 1
        for one, answer in zip(group, appended, strict=True):
            assert [each.position for each in await read_stream(engine, one.stream)] == list(answer.positions)


async def test_callers_are_held_back_while_too_much_waits(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure_eventstore.appender.MOST_WAITING", 10)
    async with running(engine) as appender:
        await appender.append(new_stream())
        with superuser(database_url) as other:
            other.execute("begin")
            other.execute("lock table perdure.events in exclusive mode")
            # Two statements wait for the lock; of what follows no more than the limit waits in memory.
            appending = [asyncio.create_task(appender.append(new_stream())) for _ in range(2)]
            await until(lambda: appender.waiting == 0)
            appending += [asyncio.create_task(appender.append(new_stream())) for _ in range(50)]
            await until(lambda: appender.waiting == 10)
            await asyncio.sleep(0.05)
            assert appender.waiting == 10
            other.execute("rollback")
        assert len(await asyncio.gather(*appending)) == 52
        assert appender.waiting == 0
    assert await total(engine) == 53


async def test_where_asked_for_free_lanes_share_what_waits(engine: AsyncEngine) -> None:
    for count, sizes in ((31, [31]), (200, [100, 100])):
        statement = Counted()
        async with running(engine, statement=statement, share_from=32) as appender:
            assert all(isinstance(a, Appended) for a in await together(appender, *[new_stream() for _ in range(count)]))
        assert statement.sizes == sizes
