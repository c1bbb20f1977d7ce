"""``publish``, ``start`` and ``command`` in SQL: what they take, what they refuse, and when it reaches the log."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from logs import execute, opened, rows
from psycopg import errors as pg

from perdure_engine.definitions.names import RESERVED_EVENTS
from perdure_engine.identity import start_stream
from perdure_eventstore.database import raw_connection
from perdure_eventstore.door import Json, PayloadRefused
from perdure_eventstore.verify import verify

pytestmark = pytest.mark.every_postgres

REFUSED = "PD020"
PUBLISH = "select perdure.publish(%s, %s::json, %s, %s)"


def publish(
    connection: psycopg.Connection[Any], name: str | None = "came", payload: str | None = None, key: str | None = None,
    event: UUID | None = None,
) -> UUID:  # fmt: skip
    row = connection.execute(PUBLISH, (name, payload, key, event)).fetchone()
    assert row is not None
    found: UUID = row[0]
    return found


def payloads(url: str) -> list[bytes]:
    return [
        payload
        for (payload,) in rows(
            url, "select coalesce(e.payload, p.payload) from perdure.events e left join perdure.payloads p"
            " using (stream, version) order by e.position",
        )
    ]  # fmt: skip


def names(url: str) -> list[str]:
    return [name for (name,) in rows(url, "select data ->> 'name' from perdure.events order by position")]


def count(connection: psycopg.Connection[Any], table: str) -> int:
    row = connection.execute(f"select count(*) from perdure.{table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


async def assert_verified(url: str, events: int) -> None:
    async with opened(url) as engine, raw_connection(engine) as connection:
        last = [progress async for progress in verify(connection)][-1]
    assert (last.events, last.fault) == (events, None)


@pytest.mark.parametrize(
    "text",
    ['{"b": 1.10,  "a":"é\\n\\u00e9"}', "null", '"text"', " [1, 2]\n", "1E5", "18446744073709551615",
     "0.10000000000000000",
     '{"1234567890123456789012": "9999999999999999999999"}', '"\\\\u0000"', '{"a": {"a": {"a": 1}}}', "[[], {}, \"\"]",
     "[" * 254 + "]" * 254, '"' + "x" * 10_000 + '"'],
)  # fmt: skip
async def test_a_payload_is_kept_as_it_was_written(database_url: str, text: str) -> None:
    with psycopg.connect(database_url) as connection:
        publish(connection, payload=text)
    assert payloads(database_url) == [b'{"payload":' + text.strip().encode() + b"}"]
    assert Json.parse(text).text == text.strip().encode(), "the door in Python takes it as well"
    await assert_verified(database_url, 1)


def test_no_payload_is_null(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("select perdure.publish('came')")
    assert payloads(database_url) == [b'{"payload":null}']


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": "\\u0000"}', "U\\+0000 cannot be kept"),
        ('"\\ud800"', "half a surrogate pair"),
        ('"\\udc00 x"', "half a surrogate pair"),
        ("18446744073709551616", "the integer 18446744073709551616 is beyond 64 bits"),
        ('{"a": [1, -9223372036854775809]}', "beyond 64 bits"),
        ("1e309", "beyond a double"),
        ("-1.8E+308", "beyond a double"),
        ("1e200000", "beyond a double"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "a key stands twice"),
        ('{"a:": 1, "a:": 1}', "a key stands twice"),
        ("[" * 255 + "]" * 255, "nested more than 254 deep"),
        ('"' + "x" * (16 * 1024 * 1024) + '"', "more than the limit of 16777216"),
    ],
    ids=range(12),
)
def test_a_payload_that_a_node_could_not_read_as_it_stands_is_refused(database_url: str, text: str, why: str) -> None:
    with psycopg.connect(database_url) as connection, pytest.raises(psycopg.Error, match=why) as refused:
        publish(connection, payload=text)
    assert refused.value.sqlstate == REFUSED
    with pytest.raises(PayloadRefused):
        Json.parse(text)


def test_an_event_name_or_a_key_that_python_refuses_is_refused(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for name in ("", None, "x" * 257, "a\nb", "a\x85b", *RESERVED_EVENTS):
            with pytest.raises(psycopg.Error) as refused:
                publish(connection, name)
            assert refused.value.sqlstate == REFUSED, name
        for key in ("x" * 257, "a\tb"):
            with pytest.raises(psycopg.Error, match="a key is at most 256 printable characters"):
                publish(connection, key=key)
        publish(connection, "x" * 256, key="ö" * 256)
    assert names(database_url) == ["x" * 256]


def test_commands_that_are_not_there_are_refused_with_those_that_are(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        with pytest.raises(psycopg.Error, match="there is no command 'undo'; there are cancel, pause and resume"):
            connection.execute("select perdure.command(gen_random_uuid(), 'undo')")
        with pytest.raises(psycopg.Error, match="names the run"):
            connection.execute("select perdure.command(null, 'cancel')")
        with pytest.raises(psycopg.Error, match="at most 1000 characters"):
            connection.execute("select perdure.command(gen_random_uuid(), 'cancel', repeat('x', 1001))")
        with pytest.raises(psycopg.Error, match="a workflow_id is made of"):
            connection.execute("select perdure.start('no spaces')")


@pytest.mark.parametrize("again", ["in one transaction", "later"])
def test_the_same_id_again_is_nothing_new_and_with_other_content_an_error(database_url: str, again: str) -> None:
    event, run = uuid4(), uuid4()

    def both(connection: psycopg.Connection[Any], n: int) -> None:
        publish(connection, "came", f'{{"n": {n}}}', "k", event)
        if again == "later":
            connection.commit()

    with psycopg.connect(database_url) as connection:
        both(connection, 1)
        both(connection, 1)
        connection.commit()
        publish(connection, "came", '{"n": 1}', "k", event)
        connection.commit()
        assert count(connection, "events") == 1
        publish(connection, "other")
        with pytest.raises(psycopg.Error, match=f"event {event} was published before with other content"):
            both(connection, 2)
            connection.commit()
        connection.rollback()
        for _ in range(2):
            connection.execute("select perdure.start('one', '{}', null, null, %s)", (run,))
            connection.commit()
        with pytest.raises(psycopg.Error, match=f"run {run} was started before with another input"):
            connection.execute("select perdure.start('two', '{}', null, null, %s)", (run,))
            connection.commit()
        connection.rollback()
        assert count(connection, "events") == 2
        assert count(connection, "staged") == count(connection, "staging") == 0


def test_where_sql_and_python_look_for_a_request_is_one_place(database_url: str) -> None:
    for run in (UUID(int=0), UUID(int=2**128 - 1), uuid4(), uuid4()):
        assert rows(database_url, "select perdure.start_stream(%s)", (run,)) == [(start_stream(run),)]
        assert start_stream(run).version == 8


async def test_a_thousand_events_of_one_transaction_lie_in_its_order_and_verify(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        for n in range(1_000):
            publish(connection, f"event {n}", json.dumps({"n": n, "text": "x" * (9_000 if n % 100 == 0 else 10)}))
    assert names(database_url) == [f"event {n}" for n in range(1_000)]
    assert [json.loads(text)["payload"]["n"] for text in payloads(database_url)] == list(range(1_000))
    assert rows(database_url, "select count(*) from perdure.payloads") == [(10,)]
    assert rows(database_url, "select count(distinct payload_salt) from perdure.events") == [(1_000,)]
    await assert_verified(database_url, 1_000)


def test_more_than_one_statement_takes_is_moved_in_parts(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("select perdure.publish('event ' || n) from generate_series(1, 3500) n")
    assert names(database_url) == [f"event {n}" for n in range(1, 3501)]


def test_savepoints_undo_what_was_published_in_them_and_nothing_else(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        with pytest.raises(ZeroDivisionError), connection.transaction():
            publish(connection, "undone")
            raise ZeroDivisionError
        with connection.transaction():
            publish(connection, "first")
            with connection.transaction():
                publish(connection, "second")
            with pytest.raises(ZeroDivisionError), connection.transaction():
                publish(connection, "undone")
                raise ZeroDivisionError
            publish(connection, "third")
    assert names(database_url) == ["first", "second", "third"]


def test_the_log_is_untouched_until_commit_whatever_the_caller_makes_immediate(database_url: str) -> None:
    """Django sets all constraints to immediate to check its own."""
    with psycopg.connect(database_url) as connection:
        connection.execute("set constraints all immediate")
        publish(connection, "first")
        for name in ("second", "third"):
            connection.execute("set constraints all immediate")
            publish(connection, name)
            connection.execute("set constraints all deferred")
            connection.execute("set constraints all immediate")
        held = connection.execute(
            "select relation::regclass::text from pg_locks where pid = pg_backend_pid() and relation is not null"
        ).fetchall()
        assert not {"perdure.events", "perdure.events_position_seq", "perdure.inbox"} & {name for (name,) in held}
        assert rows(database_url, "select last_value, is_called from perdure.events_position_seq") == [(1, False)]
        connection.execute("savepoint nested")
        publish(connection, "undone")
        connection.execute("set constraints all immediate")
        connection.execute("rollback to savepoint nested")
        publish(connection, "fourth")
    assert names(database_url) == ["first", "second", "third", "fourth"]
    assert rows(database_url, "select count(*) from perdure.staging") == [(0,)]


def test_it_comes_after_whatever_else_the_caller_has_deferred(database_url: str) -> None:
    execute(
        database_url,
        """create function public.look() returns trigger language plpgsql as $$ begin
            insert into public.seen select last_value, is_called from perdure.events_position_seq; return null;
        end $$""",
        "create table public.seen (last bigint, called boolean)",
        "create table public.orders (id integer)",
        """create constraint trigger look after insert on public.orders deferrable initially deferred
            for each row execute function public.look()""",
    )
    with psycopg.connect(database_url) as connection:
        publish(connection)
        connection.execute("insert into public.orders values (1), (2)")
    assert rows(database_url, "select * from public.seen") == [(1, False)] * 2
    assert names(database_url) == ["came"]


def test_a_trigger_that_publishes_at_commit_is_heard(database_url: str) -> None:
    execute(
        database_url,
        """create function public.tell() returns trigger language plpgsql as $$ begin
            perform perdure.publish('order_placed', to_json(new)); return null;
        end $$""",
        "create table public.orders (id integer)",
        """create constraint trigger tell after insert on public.orders deferrable initially deferred
            for each row execute function public.tell()""",
    )
    with psycopg.connect(database_url) as connection:
        publish(connection)
        connection.execute("insert into public.orders values (1), (2)")
    assert names(database_url) == ["came", "order_placed", "order_placed"]
    assert payloads(database_url)[1:] == [b'{"payload":{"id":1}}', b'{"payload":{"id":2}}']


def test_a_transaction_that_published_cannot_be_prepared(database_url: str) -> None:
    """Prepared, it would hold up everybody who reads the log for as long as it waits."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for wish in ("select perdure.publish('came')", "select perdure.command(gen_random_uuid(), 'cancel')"):
            connection.execute("begin")
            connection.execute(wish.encode())
            with pytest.raises(pg.FeatureNotSupported, match="NOTIFY"):
                connection.execute("prepare transaction 'mine'")
    assert names(database_url) == []


def test_a_read_only_transaction_says_so(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.read_only = True
        with pytest.raises(pg.ReadOnlySqlTransaction):
            publish(connection)


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_every_isolation_level_publishes(database_url: str, level: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(f"set transaction isolation level {level}".encode())
        event = publish(connection)
        publish(connection)
    with psycopg.connect(database_url) as connection:
        connection.execute(f"set transaction isolation level {level}".encode())
        publish(connection, event=event)
    assert len(names(database_url)) == 2


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_an_event_younger_than_the_snapshot_asks_for_the_transaction_again(database_url: str, level: str) -> None:
    event = uuid4()
    with psycopg.connect(database_url) as connection, psycopg.connect(database_url) as other:
        for attempt in range(2):
            connection.execute(f"set transaction isolation level {level}".encode())
            publish(connection, event=event)
            if attempt == 0:
                publish(other, event=event)
                other.commit()
                with pytest.raises(pg.SerializationFailure, match="recorded by another meanwhile; repeat it"):
                    connection.commit()
            else:
                connection.commit()
    assert len(names(database_url)) == 1


async def test_two_that_publish_one_id_at_the_same_moment_publish_it_once(database_url: str) -> None:
    def both(n: int) -> None:
        with psycopg.connect(database_url) as connection:
            publish(connection, event=events[n])

    for _ in range(10):
        events = [uuid4()] * 4
        await asyncio.gather(*(asyncio.to_thread(both, n) for n in range(4)))
    assert len(names(database_url)) == 10


def test_a_role_needs_no_more_than_execute_and_has_nothing_before_it_is_granted(database_url: str) -> None:
    role = f"shop_{uuid4().hex[:12]}"
    execute(database_url, f"create role {role}")
    try:
        with psycopg.connect(database_url) as connection:
            connection.execute(f"grant usage on schema perdure to {role}".encode())
            connection.execute("create table public.trap (n integer)")
            connection.commit()
            connection.execute(f"set role {role}".encode())
            found = connection.execute(
                """select proname from pg_proc where pronamespace = 'perdure'::regnamespace
                    and prosecdef and prorettype <> 'trigger'::regtype and has_function_privilege(oid, 'execute')"""
            ).fetchall()
            assert found == []
            connection.rollback()
            connection.execute(f"grant execute on function perdure.publish, perdure.command to {role}".encode())
            connection.execute(f"set role {role}".encode())
            publish(connection)
            connection.execute("select perdure.command(gen_random_uuid(), 'cancel')")
            for forbidden in ("select from perdure.staged", "select perdure.stage(null, null, null)"):
                with pytest.raises(pg.InsufficientPrivilege), connection.transaction():
                    connection.execute(forbidden.encode())
            connection.commit()
        assert names(database_url) == ["came"]
    finally:
        execute(database_url, f"drop owned by {role}", f"drop role {role}")


def test_a_session_as_a_replica_loses_nothing(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("set session_replication_role = replica")
        publish(connection)
    assert names(database_url) == ["came"]


def test_others_are_told_once_a_transaction_and_not_before_it_commits(database_url: str) -> None:
    with (
        psycopg.connect(database_url, autocommit=True) as listening,
        psycopg.connect(database_url) as connection,
    ):
        listening.execute("listen perdure")
        for _ in range(3):
            publish(connection)
        assert list(listening.notifies(timeout=0.2)) == []
        connection.commit()
        assert len(list(listening.notifies(timeout=0.5))) == 1


def test_dead_rows_of_others_are_not_scanned(database_url: str) -> None:
    """Under a long transaction they cannot be vacuumed; the plans were made when the table was empty."""
    with psycopg.connect(database_url) as old, psycopg.connect(database_url) as connection:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select from perdure.staged")
        publish(connection)
        connection.commit()
        connection.execute("select perdure.publish('came') from generate_series(1, 20000)")
        connection.commit()
        publish(connection)
        connection.execute("set local enable_seqscan = off")
        for statement in (
            "select * from perdure.staged where xact = pg_current_xact_id() and number between 1 and 5 order by number",
            "delete from perdure.staged where xact = pg_current_xact_id()",
            "select from perdure.staging where xact = pg_current_xact_id() and step = 1",
        ):
            found = "\n".join(line for (line,) in connection.execute(f"explain {statement}".encode()).fetchall())
            assert "Seq Scan" not in found
            assert "Index Cond: (xact = pg_current_xact_id())" in found or "(xact = pg_current_xact_id()) AND" in found
    settings = rows(database_url, "select proname from pg_proc where 'enable_seqscan=off' = any (proconfig)")
    assert {name for (name,) in settings} >= {"stage_row", "move_at_commit", "move_staged", "append_staged"}
