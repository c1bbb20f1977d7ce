"""What goes wrong in COMMIT, and between it and the answer."""

import asyncio

import pytest
from breaking_proxy import breaking_proxy
from logs import event, execute, new_stream, opened, read_stream, rows, running, superuser, until

from perdure_eventstore.append import Append
from perdure_eventstore.errors import AppendRefused
from perdure_eventstore.events import NO_STREAM

pytestmark = pytest.mark.every_postgres

REFUSE_AT_COMMIT = (
    """create function public.refuse() returns trigger language plpgsql as $$
    begin if new.type = 'Unwanted' then raise exception 'not in this house'; end if; return null; end $$""",
    """create constraint trigger refuse after insert on perdure.events deferrable initially deferred
    for each row execute function public.refuse()""",
)
SYNC = b"S\0\0\0\4"
"""The last message of every statement: now commit."""


def marked() -> Append:
    return Append(new_stream().stream, NO_STREAM, [event("Unwanted")])


async def test_what_commit_refuses_is_told_to_its_caller_and_the_others_are_recorded(database_url: str) -> None:
    execute(database_url, *REFUSE_AT_COMMIT)
    async with opened(database_url) as engine, running(engine) as appender:
        mate, unwanted, later = new_stream(), marked(), new_stream()
        answers = await asyncio.gather(*map(appender.append, (mate, unwanted)), return_exceptions=True)
        assert isinstance(answers[1], AppendRefused), answers
        assert str(answers[1]) == "not in this house"
        await appender.append(later)
        assert [len(await read_stream(engine, one.stream)) for one in (mate, unwanted, later)] == [1, 0, 1]


async def test_a_backend_that_ends_after_the_commit_and_before_the_answer_has_recorded_it_once(
    database_url: str,
) -> None:
    appending_backends = (
        "select pid from pg_stat_activity where query like '%commit_batch%' and pid <> pg_backend_pid()"
    )
    async with breaking_proxy(database_url) as (through, proxy), opened(through) as engine, running(engine) as appender:
        await appender.append(new_stream())
        proxy.hold_next(b"Unwanted", lambda piece: len(SYNC))
        append = marked()
        appending = asyncio.create_task(appender.append(append))
        await until(lambda: rows(database_url, "select from perdure.events where stream = %s", (append.stream,)))
        assert not appending.done()
        with superuser(database_url) as killer:
            killer.execute(f"select pg_terminate_backend(pid) from ({appending_backends}) as b".encode())
        answer = await appending
        assert [item.position for item in await read_stream(engine, append.stream)] == list(answer.positions)
