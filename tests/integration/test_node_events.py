"""Events meet workflows: what starts, what waits, what is told when nothing matched."""

import asyncio
from uuid import uuid4

import pytest
from acceptance.checker import assert_kept
from applications import facts, new_app, recorder, story, task, until, workflow

import perdure
from perdure import StartRefused

pytestmark = pytest.mark.every_postgres

ONE = workflow("one", task("a", "began", inputs={"n": "{{n}}"}))
CAME = {"event": "came", "within": "1h"}
WAITS = workflow(
    "waits", task("a", "began"), task("b", {"all": ["a.completed", CAME]}, inputs={"n": "{{events.came.payload.n}}"})
)
KEYED = workflow(
    "keyed", task("a", "began"), task("b", {"all": ["a.completed", CAME]}), key="{{event.payload.id}}"
)  # fmt: skip


async def test_an_event_published_while_no_node_runs_is_routed_later(database_url: str) -> None:
    client = new_app(database_url)
    recorder(client)
    async with client:
        await client.register(ONE)
        published = await client.publish("began", {"n": 1})
        with pytest.raises(TimeoutError):
            await published.routed(timeout=0.3)
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False), client:
        again = await client.publish("began", {"n": 1}, event_id=published.event_id)
        (run,) = await again.runs()
        assert await run.result(timeout=10) == {"a": {"n": 1}}
    assert_kept(database_url)


async def test_an_event_published_twice_with_one_id_starts_one_run(database_url: str) -> None:
    app = new_app(database_url)
    calls = recorder(app)
    async with app.node(views=False):
        await app.register(ONE)
        event_id = uuid4()
        first, second = await asyncio.gather(*(app.publish("began", {"n": 1}, event_id=event_id) for _ in range(2)))
        assert first.position == second.position
        runs = [*await first.runs(), *await second.runs()]
        assert len({run.run_id for run in runs}) == 1
        await runs[0].result(timeout=10)
        with pytest.raises(StartRefused, match="published before with other content"):
            await app.publish("began", {"n": 2}, event_id=event_id)
    assert len(calls) == 1
    assert_kept(database_url)


async def test_a_definition_never_sees_events_older_than_itself(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app:
        early = await app.publish("began", {"n": 1})
        await app.register(ONE)
        late = await app.publish("began", {"n": 2})
    async with app.node(views=False):
        assert (
            await app.client.routed(early.event_id, 10)
        ).reason == "no workflow starts with it and no run waits for it"
        assert len((await app.client.routed(late.event_id, 10)).matches) == 1


async def test_a_retired_workflow_starts_no_more_runs(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(ONE)
        assert await (await app.publish("began", {"n": 1})).runs()
        await app.retire("one")
        assert not await (await app.publish("began", {"n": 1})).runs()


async def test_an_event_that_matches_nothing_says_why(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    some = {"event": "began", "where": "event.payload.n > 5"}
    async with app.node(views=False):
        await app.register(workflow("picky", task("a", some)))
        await app.register(KEYED)
        stranger = await (await app.publish("unheard_of")).routed()
        assert (stranger.matches, stranger.reason) == ((), "no workflow starts with it and no run waits for it")
        small = await (await app.publish("began", {"n": 1, "id": None})).routed()
        (keyless,) = small.matches
        assert (keyless.outcome, keyless.reason) == ("ignored", "its key is null")
        await app.retire("keyed")
        small = await (await app.publish("began", {"n": 1})).routed()
        assert (small.matches, small.reason) == ((), "picky: `where` is not true of it")
        nobody = uuid4()
        lost = await (await app.publish("began", {"n": 9}, run=nobody)).routed()
        assert lost.reason == f"there is no open run {nobody}"


async def test_a_wait_latches_the_first_event_and_ignores_the_rest(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app, seconds=0.05)
    async with app.node(views=False):
        await app.register(WAITS)
        (run,) = await (await app.publish("began")).runs()
    # Both are there before either is routed: afterwards the run would wait for no second one.
    async with app:
        first = (await app.publish("came", {"n": 1})).event_id
        second = (await app.publish("came", {"n": 2})).event_id
    async with app.node(views=False):
        for published in (first, second):
            routed = await app.client.routed(published, 10)
            assert [match.outcome for match in routed.matches] == ["delivered"]
        assert (await app.run(run.run_id).result(timeout=10))["b"] == {"n": 1}
        await until(lambda: facts(database_url, run.run_id, "EventIgnored"))
    (ignored,) = facts(database_url, run.run_id, "EventIgnored")
    assert ignored["event_id"] == str(second)
    assert ignored["reason"]
    assert_kept(database_url)


async def test_an_event_between_the_entry_and_its_routing_is_not_lost(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app:
        await app.register(WAITS)
        before = await app.publish("came", {"n": 0})
        entry = await app.publish("began")
        between = await app.publish("came", {"n": 1})
    async with app.node(views=False):
        started = await app.client.routed(entry.event_id, 10)
        run = started.matches[0].run
        assert run is not None
        assert (await app.run(run).result(timeout=10))["b"] == {"n": 1}
        assert not (await app.client.routed(before.event_id, 10)).matches
        assert (await app.client.routed(between.event_id, 10)).matches[0].run == run
    assert_kept(database_url)


async def test_a_keyed_workflow_has_one_open_run_a_key(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(KEYED)
        (ada,) = await (await app.publish("began", {"id": "ada"})).runs()
        (bob,) = await (await app.publish("began", {"id": "bob"})).runs()
        again = await (await app.publish("began", {"id": "ada"})).routed()
        assert [(match.outcome, match.run) for match in again.matches] == [("delivered", ada.run_id)]
        came = await (await app.publish("came", {"id": "ada"})).routed()
        assert [(match.outcome, match.run) for match in came.matches] == [("delivered", ada.run_id)]
        await ada.result(timeout=10)
        assert await bob.status() == "open"
        (next_,) = await (await app.publish("began", {"id": "ada"})).runs()
        assert next_.run_id not in (ada.run_id, bob.run_id)
    assert_kept(database_url)


async def test_a_start_whose_key_is_taken_is_refused_and_holds_up_nobody(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(KEYED)
        await app.register(ONE)
        first = await app.start("keyed", {"id": "ada"}, key="ada")
        refused = [app.start("keyed", {"id": "ada"}, key="ada") for _ in range(3)]
        others = [app.start("one", {"n": n}) for n in range(20)]
        answers = await asyncio.wait_for(asyncio.gather(*refused, *others, return_exceptions=True), 5)
        assert all(isinstance(answer, StartRefused) for answer in answers[:3]), answers[:3]
        for answer in answers[3:]:
            assert isinstance(answer, perdure.Run)
            await answer.result(timeout=10)
        # What a client was refused an event still reaches.
        (run,) = await (await app.publish("came", {"id": "ada"})).runs()
        assert run.run_id == first.run_id


async def test_an_event_for_one_run_reaches_that_run_alone(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(WAITS)
        ((one,), (two,)) = [await (await app.publish("began")).runs() for _ in range(2)]
        await app.publish("came", {"n": 1}, run=one.run_id)
        assert (await one.result(timeout=10))["b"] == {"n": 1}
        assert "EventLatched" not in " ".join(story(database_url, two.run_id))


@pytest.mark.parametrize("open_", [True, False], ids=["open", "ended"])
async def test_start_with_the_same_run_id_returns_the_first(database_url: str, open_: bool) -> None:
    app = new_app(database_url)
    calls = recorder(app, seconds=5.0 if open_ else 0.0)
    async with app.node(views=False):
        await app.register(ONE)
        run = await app.start("one", {"n": 1})
        if not open_:
            await run.result(timeout=10)
        async with asyncio.timeout(5):
            assert (await app.start("one", {"n": 1}, run_id=run.run_id)).run_id == run.run_id
            with pytest.raises(StartRefused, match="started before with another input"):
                await app.start("one", {"n": 2}, run_id=run.run_id)
    assert len(calls) == 1
    assert_kept(database_url)


async def test_of_two_starts_at_once_with_one_run_id_and_other_content_one_is_refused(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(ONE)
        for _ in range(5):
            run_id = uuid4()
            starts = [app.start("one", {"n": n}, run_id=run_id) for n in range(2)]
            answers = await asyncio.wait_for(asyncio.gather(*starts, return_exceptions=True), 5)
            assert sorted(type(answer).__name__ for answer in answers) == ["Run", "StartRefused"]


async def test_a_client_and_a_node_that_start_one_run_agree(database_url: str) -> None:
    app, client = new_app(database_url), new_app(database_url)
    calls = recorder(app)
    recorder(client)
    async with app.node(views=False), client:
        await app.register(ONE)
        ids = [uuid4() for _ in range(20)]
        starts = [each.start("one", {"n": 1}, run_id=run_id) for run_id in ids for each in (app, client)]
        runs = await asyncio.wait_for(asyncio.gather(*starts), 10)
        for run in runs:
            assert await run.result(timeout=10) == {"a": {"n": 1}}
    assert len(calls) == len(ids)
    assert_kept(database_url)


async def test_a_run_id_that_is_an_events_is_refused(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(ONE)
        published = await app.publish("unheard_of")
        for _ in range(2):
            with pytest.raises(StartRefused, match="is no run"):
                await asyncio.wait_for(app.start("one", {"n": 1}, run_id=published.event_id), 5)


async def test_events_that_keep_the_log_busy_do_not_hold_up_an_event_for_a_waiting_run(database_url: str) -> None:
    app = new_app(database_url)
    recorder(app)
    async with app.node(views=False):
        await app.register(WAITS)
        await app.register(
            workflow("chain", *[task(f"t{n}", *([f"t{n - 1}.completed"] if n else [])) for n in range(200)])
        )
        (waiting,) = await (await app.publish("began")).runs()
        busy = [await app.start("chain") for _ in range(20)]
        await app.publish("came", {"n": 1})
        assert (await waiting.result(timeout=5))["b"] == {"n": 1}
        assert "open" in [await run.status() for run in busy], "the chains ended too early to show anything"
