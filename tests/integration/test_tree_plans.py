"""The hot queries of the tree, its heads and the check of the log use their indexes, however long the log is.

In the manner of test_plans.py: each statement is taken from the code that sends it.
"""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from plans import MODES, filled, plan

from perdure_eventstore.checking.archived import Archived
from perdure_eventstore.checking.chains import ChainCheck
from perdure_eventstore.checking.heads import Heads
from perdure_eventstore.checking.payloads import PayloadCheck
from perdure_eventstore.checking.tree import TreeCheck
from perdure_eventstore.database import open_engine
from perdure_eventstore.head_keeper import HeadKeeper
from perdure_eventstore.merkle import CompactRange
from perdure_eventstore.session import Session
from perdure_eventstore.tree import Tree
from perdure_eventstore.verify import page_of_log, page_of_stream

SCHEMA = "perdure"
STREAM = UUID(int=1)
SOME = list(range(20))

FILL = """
    insert into perdure.events (recorded_at, stream, version, schema_version, id, type, data, metadata, hash)
        select now(), lpad(to_hex(n / 10), 32, '0')::uuid, n % 10 + 1, 1, gen_random_uuid(), 'Happened',
            '{}', '{}', ''
        from generate_series(0, 99999) n;
    insert into perdure.payloads select lpad(to_hex(n), 32, '0')::uuid, 1, 'x' from generate_series(0, 99999) n;
    insert into perdure.tree_chunks select n, n * 256 + 1, n * 256 + 256, '', '' from generate_series(0, 19999) n;
    insert into perdure.tree_nodes select 9, n, '' from generate_series(0, 9999) n;
    insert into perdure.tree_nodes select 10, n, '' from generate_series(0, 4999) n;
    insert into perdure.heads select n, n, '', '', now() from generate_series(1, 20000) n;
    create or replace function perdure.archived_streams(first_position bigint, last_position bigint)
        returns setof uuid language sql volatile as $$ select gen_random_uuid() $$;
    vacuum analyze perdure.events, perdure.payloads, perdure.tree_chunks, perdure.tree_nodes, perdure.heads"""


@pytest.fixture(scope="module")
def connection(template: str) -> Iterator[psycopg.Connection[Any]]:
    """One database for all of them: nothing is changed here."""
    with filled(template, FILL.split(";")) as connection:
        yield connection


@pytest.fixture
def session() -> Session:
    """Never connects: only statements are taken from what is built with it."""
    return Session(open_engine("postgresql://nobody@/nothing"))


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def planned(connection: psycopg.Connection[Any], mode: str, statement: str, *parameters: Any) -> str:
    found = plan(connection, mode, statement, *parameters)
    assert "Seq Scan" not in found, found
    return found


def test_the_guard_sees_a_scan_of_the_whole_table(connection: psycopg.Connection[Any], mode: str) -> None:
    with pytest.raises(AssertionError, match="Seq Scan on tree_chunks"):
        planned(connection, mode, "select * from perdure.tree_chunks where last_position = %s", 5)


def test_the_tree_grows_by_the_primary_keys(connection: psycopg.Connection[Any], session: Session, mode: str) -> None:
    tree = Tree(session)
    assert "Backward using tree_chunks_pkey" in planned(connection, mode, tree._end)
    leaves = planned(connection, mode, tree._leaves, 50_000, 60_000, 16_384)
    assert "Index Scan using events_pkey" in leaves
    assert "Sort" not in leaves


def test_the_tree_is_asked_by_its_indexes(connection: psycopg.Connection[Any], session: Session, mode: str) -> None:
    tree = Tree(session)
    for statement in (tree._chunks, tree._roots):
        assert "tree_chunks_pkey" in planned(connection, mode, statement, SOME)
    assert "tree_nodes_pkey" in planned(connection, mode, tree._nodes, [9] * 20, SOME)
    assert "Backward using tree_chunks_first_position" in planned(connection, mode, tree._owners, SOME)


def test_the_last_head_is_one_probe(connection: psycopg.Connection[Any], session: Session, mode: str) -> None:
    keeper = HeadKeeper(session._engine)
    assert "Backward using heads_pkey" in planned(connection, mode, keeper._last)


def test_the_log_is_checked_in_order_by_the_primary_key(connection: psycopg.Connection[Any], mode: str) -> None:
    found = planned(connection, mode, page_of_log(SCHEMA), 50_000, 100_000)
    assert "Index Scan using events_pkey" in found
    assert "Sort" not in found
    assert "using events_stream_version" in planned(connection, mode, page_of_stream(SCHEMA), STREAM, 0)


def test_what_a_page_needs_besides_is_found_by_indexes(
    connection: psycopg.Connection[Any], session: Session, mode: str
) -> None:
    numbers, streams, versions = list(range(50)), [STREAM] * 50, [1] * 50
    chains, payloads = ChainCheck(session, SCHEMA), PayloadCheck(session, SCHEMA)
    assert "events_stream_version" in planned(connection, mode, chains._lookup, numbers, streams, versions)
    assert "payloads_pkey" in planned(connection, mode, payloads._sizes, numbers, streams, versions)
    assert "payloads_pkey" in planned(connection, mode, payloads._slice, 1, 100, STREAM, 1)
    assert "events_stream_version" in planned(connection, mode, payloads._erased, streams)


def test_tree_and_heads_are_checked_by_their_indexes(
    connection: psycopg.Connection[Any], session: Session, mode: str
) -> None:
    heads = Heads(session, SCHEMA, "perdure/x", (), ())
    tree = TreeCheck(session, SCHEMA, CompactRange(), 0, heads)
    assert "Index Scan using heads_pkey" in planned(connection, mode, heads._select, 10_000)
    assert "Index Scan using tree_chunks_pkey" in planned(connection, mode, tree._next, 10_000)
    assert "tree_nodes_pkey" in planned(connection, mode, tree._wrong_node, [9] * 20, SOME, [b""] * 20)
    assert "events_pkey" in planned(connection, mode, tree._event, 5)
    archived = Archived(session, SCHEMA)
    assert "events_stream_version" in planned(connection, mode, archived._events, 1, 256)
