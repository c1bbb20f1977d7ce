"""A primary and a synchronous standby, real ones, of which the second can take the first one's place."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from bad_days.servers import Servers, Version
from logs import execute, rows
from postgres_server import PostgresServer


class Pair:
    """A primary, and a standby that it waits for in every COMMIT."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer) -> None:
        self.primary, self.standby = primary, standby

    @property
    def url(self) -> str:
        """Of the one of both that can be written to."""
        hosts = ",".join(f"{quote(str(each.folder), safe='')}:5432" for each in (self.primary, self.standby))
        return f"postgresql://tester@{hosts}/postgres?target_session_attrs=read-write"

    def delay(self) -> None:
        """From now on nothing that the primary sends arrives."""
        ((self._receiver,),) = rows(self.standby.url, "select pid from pg_stat_wal_receiver")
        os.kill(self._receiver, signal.SIGSTOP)

    def arrive(self) -> None:
        """Now it does."""
        os.kill(self._receiver, signal.SIGCONT)

    def promote(self) -> None:
        """The standby is the primary from now on; nobody stands by it."""
        self.standby.run("pg_ctl", "-D", str(self.standby.data), "-w", "-s", "promote")


@contextmanager
def synchronous_pair(servers: Servers, version: Version) -> Iterator[Pair]:
    """Both running. What the primary has acknowledged, the standby has on its disk."""
    with servers.stopped(version) as primary, servers.stopped(version) as standby:
        standby.settings["primary_conninfo"] = f"host={primary.folder} port=5432 user=tester"
        # Until it is back at a primary that was restarted, every COMMIT waits.
        standby.settings["wal_retrieve_retry_interval"] = "100ms"
        standby.become_standby()
        primary.start()
        standby.start()
        execute(
            primary.url, "alter system set synchronous_standby_names = '*'", "select pg_reload_conf()",
            "create table public.known_to_the_standby ()",
        )  # fmt: skip
        yield Pair(primary, standby)
        if primary.runs:
            execute(primary.url, "alter system set synchronous_standby_names = ''", "select pg_reload_conf()")
