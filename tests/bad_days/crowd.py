"""Processes that write and read, their notes, and the judgement over them."""

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from uuid import UUID

import psycopg
from acceptance.forks import Child, ForkServer
from bad_days import reader, writer
from bad_days.notes import WriterNotes, name_of, seen_by, told_by
from bad_days.verdict import Verdict
from log_checker import Fact, findings
from logs import opened

from perdure_eventstore.database import raw_connection
from perdure_eventstore.verify import verify

_END_SECONDS = 60.0


class Crowd:
    """Writers, some of which share streams, and readers of everything. ``random`` decides what is left open."""

    def __init__(self, forks: ForkServer, folder: Path, url: str, seed: int, *, shared: int = 2) -> None:
        """``url`` is the server's own; a writer may be given another way to it."""
        self.url, self.seed, self.random = url, seed, Random(seed)
        self._forks, self._folder = forks, folder
        self._shared = [str(UUID(int=self.random.getrandbits(128), version=4)) for _ in range(shared)]
        self.writers: list[Child] = []
        self.readers: list[Child] = []
        self._writer_notes: list[Path] = []
        self._reader_notes: list[Path] = []

    def start_writer(self, url: str | None = None, *, careless: bool = True, pause: float = 0.02) -> Child:
        """One more process that writes."""
        notes = self._folder / f"writer-{len(self._writer_notes)}.notes"
        self._writer_notes.append(notes)
        options = {"contended": self._shared, "careless": careless, "pause": pause}
        child = self._forks.fork(
            writer.write, url=url or self.url, notes=str(notes), seed=self.random.getrandbits(32), **options
        )
        self.writers.append(child)
        return child

    def start_reader(self, notes: Path | None = None) -> Child:
        """One more process that reads from the log's beginning, or from where ``notes`` of a killed one end."""
        if notes is None:
            notes = self._folder / f"reader-{len(self._reader_notes)}.notes"
            self._reader_notes.append(notes)
        child = self._forks.fork(reader.read, url=self.url, notes=str(notes), seed=self.random.getrandbits(32))
        self.readers.append(child)
        return child

    def replace_writer(self, url: str | None = None, *, careless: bool = True, pause: float = 0.02) -> None:
        """Kill one with -9 and start another."""
        self.writers.pop(self.random.randrange(len(self.writers))).kill()
        self.start_writer(url, careless=careless, pause=pause)

    def replace_reader(self) -> None:
        """Kill one with -9 and start another where it was."""
        index = self.random.randrange(len(self.readers))
        self.readers.pop(index).kill()
        notes = self._reader_notes.pop(index)
        self._reader_notes.append(notes)
        self.start_reader(notes)

    def own_notes(self) -> WriterNotes:
        """For the test itself, when it appends too."""
        self._writer_notes.append(self._folder / "own.notes")
        return WriterNotes(self._writer_notes[-1])

    async def until_read(self, count: int) -> None:
        """Wait until every reader has seen so many events more than now."""
        goals = {notes: len(seen_by(notes)) + count for notes in self._reader_notes}
        async with asyncio.timeout(_END_SECONDS):
            while any(len(seen_by(notes)) < goal for notes, goal in goals.items()):
                await asyncio.sleep(0.05)

    async def end(self) -> Verdict:
        """Let the writers finish and the readers catch up, end them all, and judge."""
        troubles = await self._end_writers()
        settle_prepared(self.url, self.random)
        log = read_log(self.url)
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                while not all(self._has_read(notes, log) for notes in self._reader_notes):
                    await asyncio.sleep(0.05)
        for each in self.readers:
            if each.has_ended():
                troubles.append(f"a reader ended by itself:\n{each.output}")
            each.kill()
        told = [one for notes in self._writer_notes for one in told_by(notes)]
        seen = {notes.stem: seen_by(notes) for notes in self._reader_notes}
        counts = Counter(f"appends {one.outcome}" for one in told)
        counts.update({"events": len(log), "streams": len({fact.stream for fact in log})})
        counts.update({"processes": len(self._writer_notes) + len(self._reader_notes)})
        counts.update({f"read by {name}": len(facts) for name, facts in seen.items()})
        return Verdict(self.seed, dict(counts), troubles + findings(log, told, seen) + await broken_chains(self.url))

    async def _end_writers(self) -> list[str]:
        for each in self.writers:
            each.signal(signal.SIGCONT)
            each.signal(signal.SIGTERM)
        troubles = []
        for each in self.writers:
            if not await asyncio.to_thread(each.has_ended, _END_SECONDS):
                troubles.append(f"a writer did not end:\n{each.output}")
                each.kill()
            elif "Traceback" in each.output:
                troubles.append(f"a writer failed:\n{each.output}")
        return troubles

    @staticmethod
    def _has_read(notes: Path, log: Sequence[Fact]) -> bool:
        return not log or (notes.exists() and b"\n[%d," % log[-1].position in b"\n" + _tail(notes))


def _tail(file: Path) -> bytes:
    with file.open("rb") as opened_file:
        opened_file.seek(max(0, file.stat().st_size - 100_000))
        return opened_file.read()


def read_log(url: str) -> list[Fact]:
    """The whole log, by a plain statement."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("select position, stream, version, data::text from perdure.events order by position")
        return [Fact(position, str(stream), version, name_of(data)) for position, stream, version, data in rows]


def settle_prepared(url: str, random: Random) -> int:
    """Commit or undo what was prepared and left; how many."""
    with psycopg.connect(url, autocommit=True) as connection:
        left = connection.execute("select gid from pg_prepared_xacts where database = current_database()").fetchall()
        for (name,) in left:
            with suppress(psycopg.errors.UndefinedObject):  # somebody was faster
                connection.execute(f"{random.choice(['commit', 'rollback'])} prepared '{name}'".encode())
        return len(left)


async def broken_chains(url: str) -> list[str]:
    """What Perdure's own check of the chains says."""
    async with opened(url) as engine, raw_connection(engine) as connection:
        return [str(progress.fault) async for progress in verify(connection) if progress.fault]
