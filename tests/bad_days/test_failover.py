"""The primary dies of kill -9 under load and its synchronous standby is promoted: everybody goes on by himself.

Nothing that was acknowledged is lost, no run is stranded, and nobody is taken for dead who was only cut off.
"""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import orjson
import pytest
from acceptance.checker import Told, assert_kept
from acceptance.forks import ForkServer
from bad_days import work_lives
from bad_days.pair import Pair, synchronous_pair
from bad_days.servers import Servers, Version
from command_line import perdure as command
from logs import execute, rows

import perdure
from perdure_eventstore.errors import LogUnavailable

OUTAGE = 3.0
"""Seconds without a primary, longer than a lease."""


@pytest.fixture
def pair(servers: Servers, version: Version) -> Iterator[Pair]:
    with synchronous_pair(servers, version) as pair:
        execute(pair.primary.url, "create table public.ledger (run uuid, token text)")
        yield pair


def notes(file: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(orjson.loads, file.read_bytes().splitlines()) if file.exists() else ()
    return [line for line in lines if line["kind"] == kind]


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    with anyio.fail_after(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


def stories(url: str, type_: str) -> int:
    ((found,),) = rows(url, "select count(*) from perdure.events where type = %s", (type_,))
    return int(found)


async def test_the_standby_is_promoted_and_nodes_and_clients_go_on_by_themselves(
    pair: Pair, forks: ForkServer, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    file = tmp_path / "notes"
    async with work_lives.application(pair.url) as app:
        await app.register(work_lives.ORDER)
        nodes = [forks.fork(work_lives.node, url=pair.url) for _ in range(2)]
        publisher = forks.fork(work_lives.publisher, url=pair.url, notes=str(file), pause=0.03)
        await until(lambda: stories(pair.primary.url, "RunCompleted") > 20)
        await asyncio.sleep(dice.random())
        before = set(rows(pair.primary.url, "select node, epoch from perdure.nodes"))
        await asyncio.to_thread(pair.primary.kill)
        await asyncio.sleep(0.3)  # what was acknowledged in the last moment is being noted
        acknowledged = len(notes(file, "published"))
        await asyncio.sleep(OUTAGE)
        assert len(notes(file, "published")) == acknowledged, "nobody acknowledges what nobody keeps"
        await asyncio.to_thread(pair.promote)
        promoted = time.monotonic()
        await until(lambda: len(notes(file, "published")) > acknowledged + 20)
        print(f"publishing again after {time.monotonic() - promoted:.1f} s")
        publisher.signal(signal.SIGTERM)
        await asyncio.to_thread(publisher.wait, 60.0)
        (orders,) = [each["orders"] for each in notes(file, "finished")]
        await until(lambda: stories(pair.standby.url, "RunCompleted") == orders, 60.0)
        await until(lambda: not rows(pair.standby.url, "select from perdure.inbox"))
        after = set(rows(pair.standby.url, "select node, epoch from perdure.nodes"))
        assert after == before, "the same nodes, and none was fenced off"
        # Exactly-once attempts work in a transaction of the server that died, and nobody else was interrupted.
        of_whom = "select data ->> 'task_id' from perdure.events where type = 'TaskInterrupted'"
        interrupted = rows(pair.standby.url, of_whom)
        print(f"{len(interrupted)} exactly-once attempts interrupted")
        assert {task for (task,) in interrupted} <= {"book"}
        # This client too was there all along.
        run = await asked_again(app, pair.standby.url)
        assert await run.status() == "completed"
        assert (await app.doctor()).faults == []
        for node in nodes:
            node.signal(signal.SIGTERM)
            await asyncio.to_thread(node.wait, 30.0)
    check(pair.standby.url, file, orders)
    verified = command(tmp_path, "verify", PERDURE_DATABASE_URL=pair.url)
    assert verified.status == 0, verified.err


@pytest.mark.parametrize("how", ["promoted", "restarted"])
async def test_who_died_in_the_outage_is_found_out_and_who_did_not_is_left_in_peace(
    pair: Pair, forks: ForkServer, how: str
) -> None:
    lease = 2.0
    back = pair.standby if how == "promoted" else pair.primary
    async with work_lives.application(pair.url) as app:
        await app.register(work_lives.LONG)
        dying, living = (forks.fork(work_lives.node, url=pair.url) for _ in range(2))
        evenly = "select from (select from perdure.shards group by node having count(*) = 32) halves"
        await until(lambda: len(rows(pair.primary.url, evenly)) == 2)
        for _ in range(40):
            await app.start("long", {"seconds": 12})
        await until(lambda: stories(pair.primary.url, "TaskStarted") == 40)
        (lost,) = {node for node, name in rows(pair.primary.url, "select node, name from perdure.nodes")
                   if name.endswith(f":{dying.pid}")}  # fmt: skip
        await asyncio.to_thread(pair.primary.kill)
        dying.kill()
        await asyncio.sleep(OUTAGE)
        await asyncio.to_thread(pair.promote if how == "promoted" else pair.primary.start)
        is_back = time.monotonic()
        of_whom = "select distinct (data ->> 'node')::uuid from perdure.events where type = 'TaskInterrupted'"
        await until(lambda: rows(back.url, of_whom))
        took = time.monotonic() - is_back
        print(f"taken over {took:.1f} s after the database was {how}, with a lease of {lease} s")
        assert 0.5 * lease < took < 3 * lease
        await until(lambda: stories(back.url, "RunCompleted") == 40)
        assert rows(back.url, of_whom) == [(lost,)]
        assert (await app.doctor()).faults == []
        living.signal(signal.SIGTERM)
        await asyncio.to_thread(living.wait, 30.0)
    assert_kept(back.url)


async def asked_again(app: perdure.App, url: str) -> perdure.Run:
    """A reader is told when its connection is gone, and asks again."""
    ((run,),) = rows(url, "select stream from perdure.events where type = 'RunCompleted' limit 1")
    for _ in range(3):
        try:
            await app.run(run).status()
            break
        except LogUnavailable:
            await asyncio.sleep(0.1)
    return app.run(run)


def check(url: str, file: Path, orders: int) -> None:
    """Every event that was acknowledged is there, once; every run ended; each booked once."""
    published = {UUID(each["event"]): each["payload"] for each in notes(file, "published")}
    assert len(published) == 2 * orders
    history = assert_kept(url, Told(published))
    assert not history.open_runs
    booked = rows(url, "select run, count(*) from public.ledger group by run")
    assert len(booked) == orders
    assert {count for _, count in booked} == {1}
