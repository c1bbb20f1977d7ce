"""The client beside a node: what it knows of definitions, of runs that are not there, and of its own breaking off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from unittest.mock import patch
from uuid import uuid4

import pytest
from applications import new_app, recorder, task, workflow

import perdure
from perdure import StartRefused
from perdure.errors import AppInUse, NotConnected
from perdure_engine.history import UnknownRun
from perdure_engine.registry import Registration, UnknownWorkflow
from perdure_eventstore.append import Entry
from perdure_eventstore.errors import LogUnavailable
from perdure_eventstore.lane import Answer, Lane
from perdure_eventstore.settled import SettledMark

SOON = 5.0
LATER = 30.0
"""Where a traceback is rendered meanwhile, which a busy machine takes seconds for."""


def version(number: int, workflow_id: str = "w") -> dict[str, object]:
    return workflow(workflow_id, task("a", inputs={"version": number}))


async def started(app: perdure.App, workflow_id: str) -> int:
    """The version that a start takes."""
    result = await (await app.start(workflow_id)).result(timeout=10)
    return int(result["a"]["version"])


async def starts(app: perdure.App, workflow_id: str, number: int) -> None:
    async with asyncio.timeout(SOON):
        while await started(app, workflow_id) != number:
            await asyncio.sleep(0.05)


async def starts_no_more(app: perdure.App, workflow_id: str) -> None:
    async with asyncio.timeout(SOON):
        with pytest.raises(UnknownWorkflow):
            while True:
                await started(app, workflow_id)
                await asyncio.sleep(0.05)


async def test_a_second_node_of_an_app_is_refused_and_leaves_the_first_as_it_is(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        with pytest.raises(AppInUse, match=r"has a node already, and takes one at a time: .* make a second App"):
            async with app.node(views=False):
                pass
        assert app.client.node is not None
        await app.register(version(1))
        assert await started(app, "w") == 1
    # One after the other is another matter.
    async with app.node(views=False):
        assert await started(app, "w") == 1


async def test_an_app_whose_node_did_not_begin_can_begin_another(database_url: str) -> None:
    app, refuses = new_app(database_url), True

    @asynccontextmanager
    async def lifespan(_: perdure.App) -> AsyncIterator[None]:
        if refuses:
            raise OSError("not yet")
        yield

    app._lifespan = lifespan
    with pytest.raises(OSError, match="not yet"):
        async with app.node(views=False):
            pass
    refuses = False
    recorder(app)
    async with app.node(views=False):
        await app.register(version(1))
        assert await started(app, "w") == 1


async def test_two_apps_are_two_nodes_in_one_process(database_url: str) -> None:
    one, two = new_app(database_url), new_app(database_url)
    for app in (one, two):
        recorder(app)
    async with one.node(views=False):
        async with two.node(views=False):
            await two.register(version(1))
            assert await started(two, "w") == 1
        assert await started(one, "w") == 1


async def test_an_app_may_be_entered_again_and_the_last_one_out_disconnects(database_url: str) -> None:
    app, other = new_app(database_url), asyncio.Event()

    async def beside() -> None:
        async with app:
            other.set()
            await asyncio.sleep(0.1)
            assert await app.definitions() == []

    async with app:
        async with app:
            assert await app.definitions() == []
        task = asyncio.create_task(beside())
        await other.wait()
        assert await app.definitions() == []
    await task
    with pytest.raises(NotConnected):
        app.client  # noqa: B018 # a property that raises


async def test_an_app_is_connected_in_one_event_loop_at_a_time(database_url: str) -> None:
    app = new_app(database_url)

    async def enter() -> int:
        async with app:
            return len(await app.definitions())

    async with app:
        with pytest.raises(AppInUse, match="connected in another event loop"):
            await asyncio.to_thread(asyncio.run, enter())
        assert await app.definitions() == []
    assert await asyncio.to_thread(asyncio.run, enter()) == 0
    assert await enter() == 0


async def test_every_node_learns_what_another_process_registers_and_retires(database_url: str) -> None:
    """Either way round: only one of the two routes events."""
    one, two = new_app(database_url), new_app(database_url)
    recorder(one), recorder(two)
    async with one.node(views=False), two.node(views=False):
        for here, there, name in ((one, two, "first"), (two, one, "second")):
            await here.register(version(1, name))
            await starts(there, name, 1)
            await asyncio.sleep(0.5)
            assert await started(there, name) == 1
            await here.register(version(2, name))
            assert await started(here, name) == 2, "its own process knows at once"
            await starts(there, name, 2)
            await here.retire(name)
            await starts_no_more(there, name)


async def test_an_answer_from_before_a_change_is_not_remembered(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app:
        await app.register(version(1))
        registry = app.client.registry
        registry.remember_active()
        versions, asked, answer = registry.versions, asyncio.Event(), asyncio.Event()

        async def late(workflow_id: str | None = None) -> list[Registration]:
            found = await versions(workflow_id)
            asked.set()
            await answer.wait()
            return found

        with patch.object(registry, "versions", late):
            asking = asyncio.create_task(registry.active("w"))
            await asked.wait()
        await app.register(version(2))
        answer.set()
        assert (await asking).number == 1
        assert (await registry.active("w")).number == 2


@pytest.mark.parametrize("node", [True, False], ids=["node", "client"])
async def test_the_result_of_an_unknown_run_is_an_error(database_url: str, node: bool) -> None:
    app = new_app(database_url)
    async with app.node(views=False) if node else app:
        with pytest.raises(UnknownRun):
            await asyncio.wait_for(app.run(uuid4()).result(), SOON)


async def test_a_run_id_of_another_workflow_or_key_is_refused(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(workflow("one", task("a", "began")))
        await app.register(workflow("two", task("a", "began")))
        await app.register(workflow("keyed", task("a", "began"), key="{{event.payload.id}}"))
        run = await app.start("one")
        with pytest.raises(StartRefused, match="is one of one"):
            await app.start("two", run_id=run.run_id)
        keyed = await app.start("keyed", {"id": 1}, key="1")
        assert (await app.start("keyed", {"id": 1}, key="1", run_id=keyed.run_id)).run_id == keyed.run_id
        with pytest.raises(StartRefused, match="input, event or key"):
            await app.start("keyed", {"id": 1}, key="2", run_id=keyed.run_id)


async def test_a_client_whose_appender_broke_off_says_so_and_goes_on(database_url: str) -> None:
    app = new_app(database_url)
    commit, broken = Lane.commit, asyncio.Event()

    async def defect(lane: Lane, entries: list[Entry]) -> list[Answer]:
        if not broken.is_set():
            broken.set()
            raise RuntimeError("a defect")
        return await commit(lane, entries)

    async with app:
        with patch.object(Lane, "commit", defect):
            publishing = [app.publish("data_ready") for _ in range(3)]
            answers = await asyncio.wait_for(asyncio.gather(*publishing, return_exceptions=True), LATER)
            assert any(isinstance(answer, LogUnavailable) for answer in answers)
            async with asyncio.timeout(LATER):
                while True:
                    with suppress(LogUnavailable):
                        await app.publish("data_ready")
                        break
                    await asyncio.sleep(0.01)
            recorder(app)
            await asyncio.wait_for(app.register(version(1)), LATER)


async def test_a_feed_that_broke_off_goes_on(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    advance, broken = SettledMark.advance, asyncio.Event()

    async def defect(mark: SettledMark) -> int:
        if not broken.is_set():
            broken.set()
            raise RuntimeError("a defect")
        return await advance(mark)

    async with app.node(views=False):
        with patch.object(SettledMark, "advance", defect):
            await asyncio.wait_for(broken.wait(), LATER)
            assert not (await (await app.publish("unheard_of")).routed(LATER)).matches


def test_an_app_whose_event_loop_was_closed_under_its_node_has_another_in_the_next(database_url: str) -> None:
    app = new_app(database_url)

    loop, abandoned = asyncio.new_event_loop(), app.node(views=False)
    loop.run_until_complete(abandoned.__aenter__())
    for each in asyncio.all_tasks(loop):
        each.cancel()
    loop.run_until_complete(asyncio.sleep(0.2))
    loop.close()

    async def anew() -> int:
        async with app.node(views=False):
            return len(await app.definitions())

    assert asyncio.run(anew()) == 0
