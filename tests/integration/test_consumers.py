"""Consumers of one subscription: in batches, split by stream, each event once in what they write."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from random import Random, randrange
from typing import Any
from unittest.mock import patch
from uuid import UUID

import anyio
import pytest
import structlog
from consuming import Entry, beside, book, consuming, faults, feeding, ledger, make_ledger, positions, recorded, write
from logs import execute, new_stream, opened, rows, running, superuser, tamper, until
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from perdure_eventstore import subscription as subscription_module
from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.checkpoints import Checkpoints
from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import SubscriptionRefused
from perdure_eventstore.events import NO_STREAM, NewEvent, RecordedEvent
from perdure_eventstore.parts import part_of
from perdure_eventstore.read import Reader
from perdure_eventstore.subscription import Round, Subscription
from perdure_eventstore.terms import Terms
from perdure_eventstore.vault.errors import VaultError

pytestmark = pytest.mark.every_postgres

NAME = "ledger"
TAKERS = """select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
    and state = 'idle in transaction'"""


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    make_ledger(database_url)
    async with opened(database_url) as engine:
        yield engine


@pytest.fixture
async def appender(engine: AsyncEngine) -> AsyncIterator[Appender]:
    async with running(engine) as appender:
        yield appender


async def fill(appender: Appender, streams: int, events: int = 1) -> list[int]:
    """The positions of new streams' events."""
    answers = await asyncio.gather(*(appender.append(new_stream(events)) for _ in range(streams)))
    return [position for answer in answers for position in answer.positions]


async def consumed(url: str, count: int) -> list[Entry]:
    with anyio.fail_after(60):
        while len(found := ledger(url)) < count:
            await asyncio.sleep(0.05)
    return found


async def test_a_new_subscription_begins_at_the_beginning_now_or_behind_a_position(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    before = sorted(await fill(appender, 10))
    heard: dict[str, list[int]] = {"all": [], "now": [], "middle": []}

    def hear(name: str) -> subscription_module.Consume:
        async def consume(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
            heard[name] += [event.position for event in events]

        return consume

    async with (
        consuming(engine, hear("all"), name="all", start="beginning"),
        consuming(engine, hear("now"), name="now", start="now"),
        consuming(engine, hear("middle"), name="middle", start=before[4]),
    ):
        await until(lambda: positions(database_url, "now"))
        later = await fill(appender, 1)
        await until(lambda: all(found[-1:] == later for found in heard.values()))
    assert heard == {"all": before + later, "now": later, "middle": before[5:] + later}


@pytest.mark.parametrize("parts", [1, 3])
async def test_it_reads_the_types_it_asks_for(
    engine: AsyncEngine, appender: Appender, database_url: str, parts: int
) -> None:
    for _ in range(12):
        kinds = [NewEvent(type_) for type_ in ("Wanted", "Other", "Also")]
        await appender.append(Append(new_stream().stream, NO_STREAM, kinds))
    async with consuming(engine, name=NAME, types=["Wanted", "Also"], parts=parts, start="beginning"):
        found = await consumed(database_url, 24)
    assert faults(found, recorded(database_url, "type <> 'Other'")) == []


async def test_batches_are_as_large_as_said_and_in_order(engine: AsyncEngine, appender: Appender) -> None:
    await fill(appender, 25, events=2)
    batches: list[list[int]] = []

    async def consume(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
        batches.append([event.position for event in events])

    async with consuming(engine, consume, name=NAME, batch=20, start="beginning"):
        await until(lambda: sum(map(len, batches)) == 50)
    assert [len(batch) for batch in batches] == [20, 20, 10]
    assert all(a < b for a, b in pairwise(position for batch in batches for position in batch))


async def test_each_part_is_the_streams_it_says(engine: AsyncEngine, appender: Appender, database_url: str) -> None:
    """Python's and Postgres' division are one."""
    await fill(appender, 60)
    taken: list[set[int]] = []

    async def consume(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
        taken.append({part_of(event.stream, 7) for event in events})
        await book(events, connection)

    async with consuming(engine, consume, name=NAME, parts=7, start="beginning"):
        found = await consumed(database_url, 60)
    assert faults(found, recorded(database_url)) == []
    assert sorted(part for parts in taken for part in parts) == list(range(7))


async def test_consumers_work_at_once_and_each_event_is_consumed_once_in_the_order_of_its_stream(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    seed = randrange(2**32)
    print(f"seed {seed}")
    random, four, calls = Random(seed), asyncio.Barrier(4), 0
    await fill(appender, 100)

    async def consume(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
        nonlocal calls
        calls += 1
        if calls <= 4:
            await four.wait()
        await asyncio.sleep(random.random() * 0.01)
        await book(events, connection)

    async with consuming(engine, consume, consumers=4, name=NAME, parts=8, batch=5, start="beginning"):
        await asyncio.gather(*(write(appender, Random(seed + n), 100) for n in range(8)))
        found = await consumed(database_url, 900)
    assert faults(found, recorded(database_url)) == []


async def test_those_who_stop_leave_the_others_their_connection(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    async with feeding(engine) as feed:
        subscription = Subscription(engine, feed, Terms(name=NAME, parts=8, batch=2, start="beginning"))
        async with beside(subscription.run(book)):
            for _ in range(10):
                async with beside(subscription.run(book)), beside(subscription.run(book)):
                    await fill(appender, 10)
                    await asyncio.sleep(0.02)
            assert faults(await consumed(database_url, 100), recorded(database_url)) == []
    assert rows(database_url, TAKERS) == []


async def test_one_who_is_slow_holds_up_its_own_part_alone(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    await fill(appender, 40)
    slow, release = asyncio.Event(), asyncio.Event()

    async def consume(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
        if part_of(events[0].stream, 4) == 2:
            slow.set()
            await release.wait()
        await book(events, connection)

    others = [entry for entry in recorded(database_url) if part_of(entry.stream, 4) != 2]
    async with consuming(engine, consume, consumers=2, name=NAME, parts=4, start="beginning"):
        await slow.wait()
        assert faults(await consumed(database_url, len(others)), others) == []
        # Nor does it hold up those who append, or the mark.
        (late,) = (await appender.append(new_stream(stream=UUID(int=3)))).positions
        await until(lambda: max(positions(database_url, NAME)) >= late, 30)
        release.set()
        assert faults(await consumed(database_url, 41), recorded(database_url)) == []


async def test_what_is_written_and_the_checkpoint_commit_together(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    """A crash after the rows were written and before the checkpoint moved leaves neither."""
    await fill(appender, 10)
    written = asyncio.Event()

    async def crash(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
        await book(events, connection)
        written.set()
        await asyncio.Event().wait()

    async with consuming(engine, crash, name=NAME, start="beginning"):
        await written.wait()
    assert (ledger(database_url), positions(database_url, NAME)) == ([], [0])
    async with consuming(engine, name=NAME, start="beginning"):
        assert faults(await consumed(database_url, 10), recorded(database_url)) == []


async def test_a_consumer_that_raises_is_tried_again_with_nothing_done_and_the_other_parts_go_on(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    await fill(appender, 30)
    failing, tries = True, 0

    async def consume(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
        nonlocal tries
        await book(events, connection)
        if failing and part_of(events[0].stream, 3) == 1:
            tries += 1
            raise RuntimeError("not yet")

    log = recorded(database_url)
    others = [entry for entry in log if part_of(entry.stream, 3) != 1]
    poisoned = [position for position, entry in enumerate(log, 1) if entry not in others]
    with structlog.testing.capture_logs() as lines:
        async with consuming(engine, consume, name=NAME, parts=3, start="beginning"):
            assert faults(await consumed(database_url, len(others)), others) == []
            await until(lambda: tries >= 3)
            assert faults(ledger(database_url), others) == []
            failing = False
            assert faults(await consumed(database_url, 30), log) == []
    told = [line for line in lines if line["event"] == "a consumer failed, its batch will be tried again"]
    assert [line["retry_in"] for line in told[:3]] == [0.1, 0.2, 0.4]
    assert {(line["part"], line["first"], line["last"]) for line in told} == {(1, poisoned[0], poisoned[-1])}
    assert str(told[0]["exc_info"]) == "not yet"


@pytest.mark.parametrize("end", ["commit", "rollback", "text"])
async def test_a_consumer_that_ends_its_transaction_is_refused(
    engine: AsyncEngine, appender: Appender, database_url: str, end: str
) -> None:
    await fill(appender, 1)

    async def consume(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
        if end == "text":
            await connection.exec_driver_sql("commit")
        else:
            await getattr(connection, end)()

    async with feeding(engine) as feed:
        subscription = Subscription(engine, feed, Terms(name=NAME, start="beginning"))
        with structlog.testing.capture_logs() as lines:
            assert await subscription.run_once(consume, await feed.beyond(0)) is Round.FAILED
        assert str(lines[0]["exc_info"]).startswith("the consumer ended its transaction")
        assert positions(database_url, NAME) == [0]


async def test_an_event_whose_transaction_commits_late_is_not_passed_over(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    """And an unrelated transaction that writes and stays open holds nobody up."""
    with superuser(database_url) as unrelated:
        unrelated.execute("create table public.unrelated (n int)")
        unrelated.execute("begin")
        unrelated.execute("insert into public.unrelated values (1)")
        async with consuming(engine, name=NAME, parts=2, start="beginning"), raw_connection(engine) as dawdler:
            await fill(appender, 3)
            await consumed(database_url, 3)
            await dawdler.execute("begin")
            await dawdler.execute(
                """insert into perdure.events (recorded_at, stream, version, schema_version, id, type, data, metadata,
                hash) values (now(), gen_random_uuid(), 1, 1, gen_random_uuid(), 'Late', '{}', '{}', '')"""
            )
            await fill(appender, 3)
            await asyncio.sleep(0.3)
            assert len(ledger(database_url)) == 3
            await dawdler.execute("commit")
            found = await consumed(database_url, 7)
        assert faults(found, recorded(database_url)) == []
        unrelated.execute("rollback")


async def test_without_any_notification_the_poll_alone_suffices(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    async with consuming(engine, name=NAME, start="beginning", interval=0.2):
        await until(lambda: positions(database_url, NAME))
        for count in range(1, 4):
            # Not announced, so that none is sent.
            await fill(appender, 1)
            await consumed(database_url, count)


async def test_a_notification_that_nobody_heard_costs_a_delay_and_nothing_else(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    listeners = "select pg_terminate_backend(pid, 1000) from pg_stat_activity where query like 'listen %'"
    async with consuming(engine, name=NAME, start="beginning", interval=0.2):
        await until(lambda: positions(database_url, NAME))
        for count in range(1, 4):
            execute(database_url, listeners)
            stream = new_stream()
            await appender.append(Append(stream.stream, NO_STREAM, stream.events, announce=True))
            await consumed(database_url, count)


async def test_connections_killed_at_random_lose_and_repeat_nothing(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    seed = randrange(2**32)
    print(f"seed {seed}")
    random, killed = Random(seed), 0
    victims = """select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
        and query not like '%commit_batch%'"""
    with superuser(database_url) as killer:
        async with consuming(engine, consumers=3, name=NAME, parts=4, batch=3, start="beginning"):
            writing = asyncio.gather(*(write(appender, Random(seed + n), 60) for n in range(4)))
            while not writing.done() or killed < 10:
                for (pid,) in random.sample(found := killer.execute(victims).fetchall(), min(2, len(found))):
                    killer.execute("select pg_terminate_backend(%s)", (pid,))
                    killed += 1
                await asyncio.sleep(random.random() * 0.1)
            await writing
            assert faults(await consumed(database_url, 240), recorded(database_url)) == []


async def test_a_consumer_that_is_frozen_loses_its_part_to_another(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    await fill(appender, 5)
    frozen = asyncio.Event()

    async def freeze(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
        await book(events, connection)
        frozen.set()
        await asyncio.Event().wait()

    async with consuming(engine, freeze, name=NAME, start="beginning", idle=0.3):
        await frozen.wait()
        async with consuming(engine, name=NAME, start="beginning"):
            assert faults(await consumed(database_url, 5), recorded(database_url)) == []


async def test_a_rare_event_does_not_hold_the_checkpoint_back_and_what_is_passed_over_is_saved_seldom(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    seen: list[list[int]] = []
    with patch.object(subscription_module, "CHECKPOINT_EVERY", 20):
        async with consuming(engine, name=NAME, types=["Rare"], parts=2, start="beginning"):
            for _ in range(50):
                await fill(appender, 1)
                seen.append(positions(database_url, NAME))
            await until(lambda: min(positions(database_url, NAME)) > 30)
    assert len({tuple(each) for each in seen}) <= 5


async def test_an_event_that_its_match_does_not_want_is_passed_over(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    await fill(appender, 20)
    wanted = recorded(database_url)[13]
    terms: dict[str, Any] = {
        "name": NAME,
        "match": lambda event: event.id == wanted.event,
        "batch": 3,
        "start": "beginning",
    }
    async with consuming(engine, **terms):
        assert await consumed(database_url, 1) == [wanted]
        await fill(appender, 5)
        await asyncio.sleep(0.2)
    assert ledger(database_url) == [wanted]


async def test_a_long_log_is_looked_through_by_strides(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    await fill(appender, 30)
    await appender.append(Append(new_stream().stream, NO_STREAM, [NewEvent("Rare")]))
    with patch.object(subscription_module, "STRIDE", 7), patch("perdure_eventstore.checkpoints.STRIDE", 7):
        async with consuming(engine, name=NAME, types=["Rare"], parts=3, start="beginning"):
            assert faults(await consumed(database_url, 1), recorded(database_url, "type = 'Rare'")) == []


async def test_a_checkpoint_set_back_by_hand_is_where_it_goes_on(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    await fill(appender, 6)
    async with consuming(engine, name=NAME, start="beginning"):
        await consumed(database_url, 6)
        execute(database_url, "update perdure.subscriptions set position = 3")
        await fill(appender, 1)
        assert len(await consumed(database_url, 10)) == 10


async def test_those_who_begin_at_once_divide_it_once(engine: AsyncEngine, database_url: str) -> None:
    async with feeding(engine) as feed:
        mark = await feed.beyond(-1)
        each = [Subscription(engine, feed, Terms(name=NAME, parts=parts)) for parts in (4, 8, 4, 8, 2)]
        found = await asyncio.gather(*(one.run_once(book, mark) for one in each), return_exceptions=True)
    assert len(positions(database_url, NAME)) in (2, 4, 8)
    refused = [answer for answer in found if answer is not Round.IDLE]
    assert len(refused) in (3, 4)
    assert all(isinstance(answer, SubscriptionRefused) for answer in refused)


async def test_another_number_of_parts_is_refused_with_what_to_do(engine: AsyncEngine, database_url: str) -> None:
    async with feeding(engine) as feed:
        await Subscription(engine, feed, Terms(name=NAME, parts=4)).run_once(book, await feed.beyond(-1))
        with pytest.raises(SubscriptionRefused) as refused:
            await Subscription(engine, feed, Terms(name=NAME, parts=8)).run(book)
    assert str(refused.value) == (
        "subscription 'ledger' is divided into 4 parts, and this consumer says 8; run it with parts=4, or divide the "
        "subscription anew (repartition)"
    )


async def test_an_undivided_subscription_is_found_as_one_part(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    """What was there before parts were, and what ``App.subscribe`` makes."""
    (first, *_) = sorted(await fill(appender, 5))
    execute(database_url, f"insert into perdure.subscriptions (name, position) values ('{NAME}', {first})")
    async with consuming(engine, name=NAME, start="beginning"):
        assert faults(await consumed(database_url, 4), recorded(database_url, f"position > {first}")) == []


async def consume_half(engine: AsyncEngine, url: str) -> None:
    """Two of four parts are read, the others not."""

    async def consume(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
        if part_of(events[0].stream, 4) in (1, 2):
            await asyncio.Event().wait()
        await book(events, connection)

    wanted = [entry for entry in recorded(url) if part_of(entry.stream, 4) in (0, 3)]
    async with consuming(engine, consume, consumers=3, name=NAME, parts=4, start="beginning"):
        assert faults(await consumed(url, len(wanted)), wanted) == []


async def repartition(engine: AsyncEngine, parts: int) -> None:
    async with feeding(engine) as feed:
        await Subscription(engine, feed, Terms(name=NAME, parts=parts)).repartition()


@pytest.mark.parametrize("parts", [8, 12])
async def test_a_multiple_of_the_parts_is_divided_at_any_time_and_each_event_counts_once(
    engine: AsyncEngine, appender: Appender, database_url: str, parts: int
) -> None:
    await fill(appender, 40)
    await consume_half(engine, database_url)
    await repartition(engine, parts)
    assert len(positions(database_url, NAME)) == parts
    async with consuming(engine, consumers=3, name=NAME, parts=parts, start="beginning"):
        await fill(appender, 10)
        assert faults(await consumed(database_url, 50), recorded(database_url)) == []


@pytest.mark.parametrize("parts", [1, 2, 3])
async def test_fewer_parts_are_refused_until_all_have_read_everything(
    engine: AsyncEngine, appender: Appender, database_url: str, parts: int
) -> None:
    await fill(appender, 40)
    await consume_half(engine, database_url)
    before = positions(database_url, NAME)
    with pytest.raises(SubscriptionRefused) as refused:
        await repartition(engine, parts)
    assert str(refused.value) == (
        f"subscription 'ledger' is divided into 4 parts, which have read differently far (positions {min(before)} to "
        f"{max(before)}): dividing it into {parts} would repeat or pass over events. Let its consumers read everything "
        "there is with parts=4, and divide then; a multiple of 4 is possible at any time"
    )
    assert positions(database_url, NAME) == before
    async with consuming(engine, name=NAME, parts=4, start="beginning"):
        await consumed(database_url, 40)
    await repartition(engine, parts)
    async with consuming(engine, name=NAME, parts=parts, start="beginning"):
        await fill(appender, 10)
        assert faults(await consumed(database_url, 50), recorded(database_url)) == []


async def test_dividing_anew_waits_for_a_batch_under_way_and_its_consumer_stops_then(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    await fill(appender, 10)
    begun, release = asyncio.Event(), asyncio.Event()

    async def consume(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
        begun.set()
        await release.wait()
        await book(events, connection)

    async with feeding(engine) as feed:
        old = asyncio.create_task(Subscription(engine, feed, Terms(name=NAME, parts=2, start="beginning")).run(consume))
        await begun.wait()
        dividing = asyncio.create_task(repartition(engine, 4))
        await until(lambda: rows(database_url, "select from pg_locks where not granted"))
        release.set()
        await dividing
        with pytest.raises(SubscriptionRefused, match="is divided into 4 parts, and this consumer says 2"):
            await old
    async with consuming(engine, name=NAME, parts=4, start="beginning"):
        assert faults(await consumed(database_url, 10), recorded(database_url)) == []


async def test_dividing_what_is_not_there_does_nothing(engine: AsyncEngine, database_url: str) -> None:
    await repartition(engine, 4)
    assert positions(database_url, NAME) == []


async def test_an_idle_consumer_asks_nothing_and_holds_no_transaction(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    await fill(appender, 3)
    looks = 0
    original = Checkpoints.look

    async def counting(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return await original(*arguments)

    async with consuming(engine, name=NAME, parts=4, start="beginning"):
        await consumed(database_url, 3)
        await asyncio.sleep(0.2)
        with patch.object(Checkpoints, "look", counting):
            await asyncio.sleep(0.5)
        assert looks == 0
        assert rows(database_url, TAKERS) == []


async def test_json_is_read_as_written_and_a_consumers_own_json_as_values(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    stream = new_stream()
    await appender.append(Append(stream.stream, NO_STREAM, [NewEvent("Happened", data=b'{"n":  1.50}', payload=b"[]")]))
    found: list[object] = []

    async def consume(events: Sequence[RecordedEvent], connection: AsyncConnection) -> None:
        found.extend([events[0].data, events[0].payload])
        found.append((await connection.execute(text("select '{\"a\": 1}'::json"))).scalar_one())
        await book(events, connection)

    async with consuming(engine, consume, name=NAME, start="beginning"):
        await consumed(database_url, 1)
    assert found == [b'{"n":  1.50}', b"[]", {"a": 1}]


async def test_on_a_server_that_knows_less_of_the_log_nothing_that_follows_is_passed_over(
    engine: AsyncEngine, appender: Appender, database_url: str
) -> None:
    """As after a failover to a standby that had not received the end of the log: positions are drawn again."""
    lost = sorted(await fill(appender, 30))[10:]
    async with consuming(engine, name=NAME, start="beginning", parts=2):
        await consumed(database_url, 30)
        tamper(
            database_url,
            f"delete from perdure.events where position >= {lost[0]}",
            f"select setval('perdure.events_position_seq', {lost[0]}, false)",
            f"update perdure.subscriptions set position = {lost[0] - 1}",
            "delete from public.ledger",
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'perdure'",
        )
        await asyncio.sleep(0.5)
        again = sorted(await fill(appender, 5))
        assert again[0] == lost[0]
        assert faults(await consumed(database_url, 5), recorded(database_url, f"position >= {again[0]}")) == []


async def test_what_cannot_be_decrypted_holds_up_its_own_part_alone(
    engine: AsyncEngine, appender: Appender, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(appender, 20)
    span = Reader.span

    async def without_the_key(self: Reader, *arguments: Any, **options: Any) -> list[RecordedEvent]:
        if options["part"].number == 0:
            raise VaultError("the key is not here")
        return await span(self, *arguments, **options)

    monkeypatch.setattr(Reader, "span", without_the_key)
    others = [entry for entry in recorded(database_url) if part_of(entry.stream, 2) == 1]
    async with consuming(engine, name=NAME, start="beginning", parts=2):
        assert faults(await consumed(database_url, len(others)), others) == []
        monkeypatch.undo()
        await consumed(database_url, 20)
    assert faults(ledger(database_url), recorded(database_url)) == []
