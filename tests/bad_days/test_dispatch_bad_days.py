"""What goes wrong between a run's owner and the node that executes for it: answers lost, late, or on their way."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import lives
import pytest
from acceptance.checker import assert_kept
from acceptance.forks import ForkServer, fork_server
from applications import facts, new_app, recorder, story, task, tenure_of, until, workflow
from logs import execute, opened, rows
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

import perdure
from perdure_engine.dispatch import Attempted, Dispatch
from perdure_engine.holder import Holder
from perdure_engine.identity import shard_of
from perdure_engine.inbox import Inbox
from perdure_engine.leases import Leases
from perdure_engine.limits import Permits
from perdure_engine.reaching import Reaching
from perdure_eventstore.errors import LogUnavailable
from perdure_eventstore.session import Session

pytestmark = pytest.mark.every_postgres

ELSEWHERE = workflow("elsewhere", task("a", type="left"), task("b", "a.completed", type="right"))


@pytest.fixture
async def nodes() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("forks"), "lives") as server:
        yield server


async def test_what_a_definition_says_of_delivery_holds_on_another_node(
    database_url: str, nodes: AsyncExitStack
) -> None:
    left, right = new_app(database_url), new_app(database_url)
    recorder(left, "left")

    @right.task("right", delivery="at_most_once")
    async def work() -> None:
        pass

    @right.task("other")
    async def fails() -> None:
        raise ValueError("no")

    for app in (left, right):
        await nodes.enter_async_context(app.node(views=False))
    await until(lambda: len(rows(database_url, "select distinct node from perdure.shards")) == 2)
    definition = workflow(
        "w",
        task("a", type="left"),
        task("b", "a.completed", type="right", delivery="at_least_once"),
        task("c", "a.completed", type="other", delivery="at_most_once", on_failure="continue"),
    )
    await left.register(definition, allow_unknown_types=True)
    for run in [await left.start("w") for _ in range(8)]:
        await run.result(timeout=10)
        started = facts(database_url, run.run_id, "TaskStarted")
        delivery = {each["task_id"]: each.get("at_most_once", False) for each in started}
        assert delivery == {"a": False, "b": False, "c": True}
        assert "TaskScheduled c 2" not in story(database_url, run.run_id)


async def test_an_attempt_that_ends_while_its_row_is_on_its_way_is_not_begun_again(
    database_url: str, nodes: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = new_app(database_url), new_app(database_url)
    recorder(left, "left")
    calls = recorder(right, "right", seconds=0.1)
    for app in (left, right):
        await nodes.enter_async_context(app.node(views=False))
    assignments, fetch = tenure_of(right).assignments, Session.fetch

    async def slow(session: Session, statement: str, parameters: Any = ()) -> Any:
        found = await fetch(session, statement, parameters)
        if statement is assignments._select and found:
            await asyncio.sleep(0.4)
        return found

    monkeypatch.setattr(Session, "fetch", slow)
    await left.register(ELSEWHERE, allow_unknown_types=True)
    runs = [await left.start("elsewhere") for _ in range(8)]
    for run in runs:
        await run.result(timeout=15)
    await asyncio.sleep(1.0)
    began = sorted(str(each.run_id) for each in calls.tasks)
    assert began == sorted(set(began))
    assert began


async def test_what_a_dead_node_had_to_execute_is_interrupted_though_the_answer_was_lost_as_it_was_taken_back(
    database_url: str, nodes: AsyncExitStack, forks: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes").touch()
    owner = new_app(database_url)
    recorder(owner, "left")
    await nodes.enter_async_context(owner.node(views=False))
    definition = workflow(
        "elsewhere", task("a", type="left"), task("b", "a.completed", inputs={"seconds": "{{seconds}}"})
    )
    await owner.register(definition, allow_unknown_types=True)
    executor = forks.fork(lives.node, url=database_url, notes=str(tmp_path / "notes"), settings={})
    await until(lambda: len(rows(database_url, "select from perdure.nodes")) == 2)
    runs = [await owner.start("elsewhere", {"seconds": 60}) for _ in range(8)]
    tenure = tenure_of(owner)
    mine = [run for run in runs if run.run_id in tenure.holder._held]
    await until(lambda: len(rows(database_url, "select from perdure.assignments")) >= len(mine) > 0)
    lost, fetch = list[str](), Session.fetch

    async def loses(session: Session, statement: str, parameters: Any = ()) -> Any:
        found = await fetch(session, statement, parameters)
        if statement is tenure.holder.placement.dispatch._revoke and not lost:
            lost.append(statement)
            raise LogUnavailable("the answer was lost")
        return found

    monkeypatch.setattr(Session, "fetch", loses)
    executor.kill()
    await until(lambda: all("TaskInterrupted b 1" in story(database_url, run.run_id) for run in mine), 15)
    assert lost
    assert_kept(database_url, at_rest=False)


@pytest.mark.parametrize("late", [None, (Dispatch, "adopt"), (Reaching, "_take_up_all")])
async def test_a_booking_whose_result_was_on_its_way_when_its_runs_owner_died_is_not_made_again(
    database_url: str, nodes: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, late: tuple[type, str] | None
) -> None:
    """Whatever is late at the heir: it may read the inbox first, and runs too long to be read together."""
    execute(database_url, "create table public.ledger (task text)")
    left, right = new_app(database_url), new_app(database_url)
    recorder(left, "left")

    @right.task("right")
    async def book(task: perdure.Task, connection: AsyncConnection) -> int:
        await connection.execute(text("insert into public.ledger values (:task)"), {"task": task.idempotency_key})
        return task.attempt

    async with left.node(views=False):
        await nodes.enter_async_context(right.node(views=False))
        await until(lambda: len(rows(database_url, "select distinct node from perdure.shards")) == 2)
        await left.register(ELSEWHERE, allow_unknown_types=True)
        monkeypatch.setattr(tenure_of(left).reaching._inbox, "read", lambda shards: _nothing())
        runs = [await left.start("elsewhere") for _ in range(16)]
        of_left = {each.run_id for each in runs} & tenure_of(left).holder._held.keys()
        assert of_left
        came = "select run from perdure.inbox where kind = 'attempt'"
        await until(lambda: of_left <= {run for (run,) in rows(database_url, came)})
        if late is not None:
            original = getattr(*late)

            async def slow(*given: Any) -> None:
                await asyncio.sleep(0.5)
                await original(*given)

            monkeypatch.setattr(*late, slow)
            monkeypatch.setattr(Holder, "load", lambda holder, runs: asyncio.sleep(0))
    # Its shards went to the other, with what came of the bookings still in the inbox.
    recorder(right, "left")
    for run in runs:
        assert (await run.result(timeout=15))["b"] == 1
    assert len(rows(database_url, "select from public.ledger")) == len(runs)


async def _nothing() -> list[Any]:
    return []


async def test_a_node_that_cannot_join_anew_waits_for_the_log(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        first, join, tries = tenure_of(app), Leases.join, list[Leases]()

        async def lost(leases: Leases) -> None:
            tries.append(leases)
            if len(tries) == 1:
                raise LogUnavailable("the connection was lost")
            await join(leases)

        monkeypatch.setattr(Leases, "join", lost)
        await app.register(workflow("w", task("a")))
        with capture_logs() as said:
            execute(database_url, "update perdure.nodes set epoch = epoch + 1")
            run = await app.start("w")
            await run.result(timeout=10)
        assert tenure_of(app) is not first and len(tries) == 2
        assert [
            each["event"] for each in said if each["log_level"] == "error" and "recorded" not in each["event"]
        ] == []


async def test_an_attempt_that_ends_while_its_run_is_handed_over_is_not_begun_again(
    database_url: str, nodes: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = [new_app(database_url, lease=4.5, concurrency=300) for _ in range(2)]
    calls, others = recorder(first, seconds=2.5), recorder(second)
    await nodes.enter_async_context(first.node(views=False))
    await first.register(workflow("w", task("a")))
    give, given = Leases.give, list[bytes]()

    async def slow(leases: Leases, shards: Collection[int], attempts: bytes = b"[]") -> None:
        await give(leases, shards, attempts)
        given.append(attempts)
        await until(lambda: not len(tenure_of(first).attempts))
        await asyncio.sleep(0.5)

    monkeypatch.setattr(Leases, "give", slow)
    runs = [await first.start("w") for _ in range(200)]
    await until(lambda: len(calls) == len(runs))
    await nodes.enter_async_context(second.node(views=False))
    for run in runs:
        await run.result(timeout=15)
    await asyncio.sleep(0.5)
    assert given and given[0] != b"[]", "nothing was under way"
    assert (len(calls), len(others)) == (len(runs), 0)


async def test_what_is_handed_over_while_the_assignments_are_read_is_not_taken_for_taken_back(
    database_url: str, nodes: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = [new_app(database_url, lease=4.5, concurrency=300) for _ in range(2)]
    calls, others = recorder(first, seconds=2.5), recorder(second)
    await nodes.enter_async_context(first.node(views=False))
    await first.register(workflow("w", task("a")))
    assignments, fetch, give = tenure_of(first).assignments, Session.fetch, Leases.give
    looking, adopted = list[asyncio.Task[None]](), list[int]()

    async def late(session: Session, statement: str, parameters: Any = ()) -> Any:
        found = await fetch(session, statement, parameters)
        if statement is assignments._select and looking and not adopted:
            await until(lambda: len(assignments) > 0)
            adopted.append(len(assignments))
        return found

    async def looked_at(leases: Leases, shards: Collection[int], attempts: bytes = b"[]") -> None:
        if not looking:
            looking.append(asyncio.create_task(assignments.take_up()))
            await asyncio.sleep(0.2)
        await give(leases, shards, attempts)

    monkeypatch.setattr(Session, "fetch", late)
    monkeypatch.setattr(Leases, "give", looked_at)
    runs = [await first.start("w") for _ in range(200)]
    await until(lambda: len(calls) == len(runs))
    await nodes.enter_async_context(second.node(views=False))
    for run in runs:
        assert await run.result(timeout=15) == {"a": {}}, "it was cancelled"
    await looking[0]
    assert adopted and adopted[0] > 0
    assert (len(calls), len(others)) == (len(runs), 0)


def hand_over_that_is_not_answered(monkeypatch: pytest.MonkeyPatch, leases: Leases, *, given: bool) -> asyncio.Event:
    """The node of ``leases`` gives shards away, or is about to, when its connection falls silent. Set when it has."""
    silent, fetch, begun = asyncio.Event(), Session.fetch, list[str]()

    async def stuck(session: Session, statement: str, parameters: Any = ()) -> Any:
        if statement is leases._hand:
            begun.append(statement)
            if given:
                await fetch(session, statement, parameters)
            silent.set()
        elif not (begun and statement is leases._renew):
            return await fetch(session, statement, parameters)
        # Whatever comes after it on the same connection waits as well.
        return await asyncio.Event().wait()

    monkeypatch.setattr(Session, "fetch", stuck)
    return silent


@pytest.mark.parametrize("given", [False, True], ids=["not given", "the answer lost"])
async def test_a_node_told_to_stop_while_it_hands_shards_over_loses_nothing(
    database_url: str, nodes: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    first, second = [new_app(database_url, lease=12.0, concurrency=400) for _ in range(2)]
    slow, _ = recorder(first, seconds=60), recorder(second)
    end, once = asyncio.Event(), Counter[str]()

    async def work(task: perdure.Task) -> None:
        once[task.idempotency_key] += 1
        await end.wait()

    for app in (first, second):
        app.task("once", delivery="at_most_once")(work)
        recorder(app, "quick")
    definition = workflow(
        "w",
        task("quick", type="quick"),
        task("keyed", concurrency={"key": "{{n}}", "limit": 1}),
        task("once", type="once"),
        task("came", {"all": ["quick.completed", {"event": "came", "within": "1h"}]}, type="once"),
        task("last", {"all": ["keyed.completed", "once.completed", "came.completed"]}),
    )
    async with first.node(views=False):
        silent = hand_over_that_is_not_answered(monkeypatch, tenure_of(first).leases, given=given)
        await first.register(definition)
        runs = [(await first.start("w", {"n": n})).run_id for n in range(150)]
        await until(lambda: len(slow) == len(once) == len(runs))
        await nodes.enter_async_context(second.node(views=False))
        await silent.wait()
        heir = tenure_of(second)
        await until(lambda: len(heir.leases.shards) == 32 * given and not heir.reaching.taken)
        # The heir goes on with some of the runs, and the first loses the race for them as it stops.
        moved = [run for run in runs if shard_of(run) in heir.leases.shards][:20]
        await asyncio.gather(*(second.publish("came", {}, run=run) for run in moved))
        await until(lambda: len(heir.attempts) == len(moved))
        stopping = time.monotonic()
        asyncio.get_running_loop().call_later(1.0, end.set)
    assert time.monotonic() - stopping < 5
    await asyncio.gather(*(second.publish("came", {}, run=run) for run in runs if run not in moved))
    for run in runs:
        assert (await second.run(run).result(timeout=30)).keys() == {"quick", "keyed", "once", "came", "last"}
    assert once == dict.fromkeys([f"{run}:{each}" for run in runs for each in ("once", "came")], 1)
    slots = heir.holder.placement.slots
    await until(lambda: (slots.free, slots.waiting) == (400, 0))
    left = " union all ".join(f"select run from perdure.{table}" for table in ("permits", "assignments", "inbox"))
    await until(lambda: rows(database_url, left) == [])
    assert_kept(database_url)


async def test_who_was_taken_for_dead_takes_nothing_away_from_its_heirs(database_url: str) -> None:
    node, run = uuid4(), uuid4()
    execute(
        database_url,
        f"""insert into perdure.nodes (node, epoch, name, task_types, alive_until)
            values ('{node}', 2, 'x', '{{}}', now())""",
        f"insert into perdure.inbox (run, shard, kind) values ('{run}', 0, 'resume')",
        f"insert into perdure.permits (key, run, task_id) values ('k', '{run}', 'a')",
        f"update perdure.shards set node = '{node}' where shard = {shard_of(run)}",
        f"""insert into perdure.assignments (run, task_id, attempt, shard, node, token, digest, failures)
            values ('{run}', 'a', 1, 0, '{node}', 1, '', 0)""",
    )
    left = "select (select count(*) from perdure.inbox), (select count(*) from perdure.permits),"
    left += " (select count(*) from perdure.assignments)"
    async with opened(database_url) as engine:
        session = Session(engine)
        for epoch, rest in ((1, (1, 1, 1)), (2, (0, 0, 0))):
            inbox = Inbox(session, (node, epoch), "perdure")
            inbox.discard([letter.id for letter in await inbox.read([0])])
            await inbox.read([0])
            permits = Permits(session, (node, epoch), "perdure")
            permits.give_back(run, "a")
            await permits.grant()
            dispatch = Dispatch(session, (node, epoch), "perdure", lambda: None)
            await dispatch.revoke([Attempted(run, "a", 1)])
            assert rows(database_url, left) == [rest], epoch
        await session.close()
