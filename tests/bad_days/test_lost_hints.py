"""The backend that listens is killed: its notifications are lost, and the poll alone suffices."""

import anyio
from logs import new_stream, opened, running, superuser, until
from postgres_server import PostgresServer

from perdure_eventstore.append import Append
from perdure_eventstore.feed import Feed

TRIES = 3
LISTENS = b"from pg_stat_activity where query ilike 'listen%' and pid <> pg_backend_pid()"


def announced() -> Append:
    one = new_stream()
    return Append(one.stream, one.expected, one.events, announce=True)


async def test_a_notification_that_nobody_heard_costs_the_time_of_a_poll(server: PostgresServer) -> None:
    async with opened(server.url) as engine, running(engine) as appender, anyio.create_task_group() as group:
        feed, heard, polled = Feed(engine, interval=0.2), list[None](), 0
        feed.listeners.append(lambda _: heard.append(None))
        group.start_soon(feed.run)
        with superuser(server.url) as killer:

            def listening() -> bool:
                return bool(killer.execute(b"select " + LISTENS).fetchall())

            for _ in range(TRIES):
                await until(listening)
                killer.execute(b"select pg_terminate_backend(pid, 5000) " + LISTENS)
                before = len(heard)
                position = (await appender.append(announced())).positions[0]
                with anyio.fail_after(10):
                    await feed.beyond(position - 1)
                # On a slow machine it may be listening again by now, and listening begins with a look.
                polled += len(heard) == before
            # And hints are heard again.
            await until(listening)
            before = len(heard)
            await appender.append(announced())
            await until(lambda: len(heard) > before)
        group.cancel_scope.cancel()
    assert polled > 0
