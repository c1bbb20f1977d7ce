"""Leases and the fence: whoever lost its shards writes no more, and whoever took them reads what was written before."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from logs import event, new_stream, opened, rows, running
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_engine.leases import Leases
from perdure_engine.task_types import TaskTypes
from perdure_engine.work import WorkStatement
from perdure_eventstore.append import Append, Batch, send
from perdure_eventstore.clock import Clock
from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import FenceLost, LogUnavailable
from perdure_eventstore.events import NO_STREAM
from perdure_eventstore.session import Session

pytestmark = pytest.mark.every_postgres


class HookedSession(Session):
    """Calls ``before`` ahead of every statement that contains ``part``."""

    part, before = "\0", staticmethod(lambda: None)

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        if self.part in statement:
            self.before()
        return await super().fetch(statement, parameters)


class Cluster:
    """Nodes that are nothing but their leases."""

    def __init__(self, url: str, engine: AsyncEngine, stack: AsyncExitStack) -> None:
        self.url, self.engine, self._stack = url, engine, stack
        self.sessions: dict[UUID, HookedSession] = {}

    async def join(self, seconds: float = 60.0, grace: float | None = 0.0) -> tuple[UUID, Leases]:
        node = uuid4()
        self.sessions[node] = session = HookedSession(self.engine)
        self._stack.push_async_callback(session.close)
        leases = Leases(session, node, TaskTypes(), 10, "perdure", seconds, grace)
        await leases.join()
        return node, leases

    def expire(self, node: UUID) -> None:
        """Let the leases of a node run out."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("update perdure.shards set lease_until = '-infinity' where node = %s", (node,))
            connection.execute("update perdure.nodes set alive_until = '-infinity' where node = %s", (node,))

    async def append(self, node: UUID, leases: Leases, append: Append | None = None) -> None:
        statement = WorkStatement("perdure", node, leases.epoch)
        async with running(self.engine, statement=statement) as appender:
            await appender.append(append or new_stream())


@pytest.fixture
async def cluster(database_url: str) -> AsyncIterator[Cluster]:
    async with opened(database_url) as engine, AsyncExitStack() as stack:
        yield Cluster(database_url, engine, stack)


async def test_whoever_was_taken_over_can_append_no_more_not_even_to_a_new_stream(cluster: Cluster) -> None:
    old, its = await cluster.join()
    assert len(await its.renew()) == 64
    await cluster.append(old, its)
    cluster.expire(old)
    await cluster.append(old, its)  # An outage is nobody's death, so long as nobody else came.
    _, others = await cluster.join()
    assert len(await others.renew()) == 64
    with pytest.raises(FenceLost):
        await cluster.append(old, its)
    with pytest.raises(FenceLost):
        await its.renew()


async def test_who_was_taken_for_dead_learns_it_though_it_has_no_shard(cluster: Cluster) -> None:
    for _ in range(64):
        await (await cluster.join())[1].renew()
    node, last = await cluster.join()
    await last.renew()
    assert not last.shards
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute("update perdure.nodes set epoch = epoch + 1 where node = %s", (node,))
    with pytest.raises(FenceLost, match="was taken for dead"):
        await last.renew()


async def test_a_lease_that_ran_out_is_renewed_if_nobody_took_it(cluster: Cluster) -> None:
    node, leases = await cluster.join()
    await leases.renew()
    cluster.expire(node)
    assert await leases.renew() == frozenset()
    assert len(leases.shards) == 64


async def test_a_takeover_waits_for_an_append_in_flight(cluster: Cluster) -> None:
    old, its = await cluster.join()
    await its.renew()
    _, others = await cluster.join()
    cluster.expire(old)
    append = Append(uuid4(), NO_STREAM, [event()])
    async with raw_connection(cluster.engine) as connection:
        await connection.execute("begin")
        await send(connection, WorkStatement("perdure", old, its.epoch), Batch([append]), Clock())
        taking = asyncio.create_task(others.renew())
        await asyncio.sleep(0.3)
        assert not taking.done(), "it must not read the runs before this commits"
        await connection.commit()
    assert len(await taking) == 64


async def test_one_whose_lease_runs_out_in_the_middle_of_a_takeover_is_not_robbed_unfenced(cluster: Cluster) -> None:
    old, its = await cluster.join()
    await its.renew()
    new, others = await cluster.join()
    session = cluster.sessions[new]
    session.part, session.before = "skip locked", lambda: cluster.expire(old)
    taken = await others.renew()
    if taken:
        with pytest.raises(FenceLost):
            await cluster.append(old, its)
    else:
        await cluster.append(old, its)
    assert len(await others.renew()) == 64
    with pytest.raises(FenceLost):
        await cluster.append(old, its)


async def test_who_has_more_than_its_share_knows_how_many_to_give(cluster: Cluster) -> None:
    _, rich = await cluster.join()
    await rich.renew()
    _, poor = await cluster.join()
    assert await poor.renew() == frozenset()
    await rich.renew()
    assert rich.surplus == 32
    await rich.give(sorted(rich.shards)[:32])
    assert len(await poor.renew()) == 32
    assert len(rich.shards) == 32
    assert not rich.shards & poor.shards


async def test_the_fencing_token_grows_with_every_change_of_hands(cluster: Cluster) -> None:
    run = uuid4()
    node, leases = await cluster.join()
    await leases.renew()
    first = leases.fencing_token(run)
    await leases.renew()
    assert leases.fencing_token(run) == first
    cluster.expire(node)
    _, heir = await cluster.join()
    await heir.renew()
    assert heir.fencing_token(run) > first


async def test_who_has_just_come_to_a_server_that_has_just_started_declares_nobody_dead(cluster: Cluster) -> None:
    old, its = await cluster.join()
    await its.renew()
    cluster.expire(old)
    ((running,),) = rows(
        cluster.url, "select extract(epoch from clock_timestamp() - pg_postmaster_start_time())::float"
    )
    _, early = await cluster.join(grace=running + 60)
    assert await early.renew() == frozenset()
    await cluster.append(old, its)
    # On one that has run for long enough, it would have renewed if it lived.
    _, others = await cluster.join(grace=running / 2)
    assert len(await others.renew()) == 32
    with pytest.raises(FenceLost):
        await cluster.append(old, its)


async def test_after_an_outage_the_first_one_back_gives_the_others_time(cluster: Cluster) -> None:
    old, its = await cluster.join(60.0)
    await its.renew()
    _, leases = await cluster.join(0.6, grace=0.6)
    await leases.renew()
    await asyncio.sleep(0.7)  # The database was out of reach: it could not renew, nor could the other.
    cluster.expire(old)
    for _ in range(3):
        assert await leases.renew() == frozenset()
        await asyncio.sleep(0.1)
    assert await its.renew() == frozenset()
    assert len(its.shards) == 64
    cluster.expire(old)
    taken = frozenset[int]()
    async with asyncio.timeout(5):
        while not taken:
            await asyncio.sleep(0.1)
            taken = await leases.renew()
    assert len(taken) == 64


async def test_a_renewal_that_cannot_reach_the_database_is_tried_until_it_can(cluster: Cluster) -> None:
    node, leases = await cluster.join(0.8)
    session = cluster.sessions[node]
    await leases.renew()
    failures = iter([LogUnavailable("away")] * 5)

    def fail() -> None:
        for failure in failures:
            raise failure

    session.part, session.before = "update", fail
    await leases.renew()
    assert len(leases.shards) == 64
