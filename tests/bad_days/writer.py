"""A process that appends until SIGTERM, in every way there is, and notes what it sends and what it is told."""

import asyncio
import signal
from collections.abc import Sequence
from random import Random
from uuid import UUID, uuid4

import psycopg
from bad_days.notes import WriterNotes, named_append
from logs import new_stream, opened, running
from psycopg import AsyncConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure_eventstore.append import Append, Appended, Batch, Statement, send
from perdure_eventstore.appender import Appender
from perdure_eventstore.clock import Clock
from perdure_eventstore.database import raw_connection
from perdure_eventstore.errors import LogError, LogUnavailable
from perdure_eventstore.events import NO_STREAM
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

PATIENCE = 20.0


async def write(
    url: str, notes: str, seed: int, contended: Sequence[str] = (), careless: bool = True, pause: float = 0.02
) -> None:
    """Append to new streams, to own ones and to those that are ``contended``, until SIGTERM.

    ``careless``: in transactions of its own too, which take their time, go back, are undone or prepared.
    """
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with opened(url, pool_size=12) as engine, running(engine, patience=PATIENCE) as appender:
        writer = Writer(engine, appender, WriterNotes(notes), Random(seed), stopping, pause)
        watch = asyncio.create_task(say_what_holds_up(stopping))
        async with asyncio.TaskGroup() as group:
            for stream in (uuid4(), uuid4()):
                group.create_task(writer.go_on(stream, alone=True))
            for name in contended:
                group.create_task(writer.go_on(UUID(name), alone=False))
            group.create_task(writer.begin_streams())
            group.create_task(writer.begin_streams_together())
            if careless:
                group.create_task(writer.be_careless())
        watch.cancel()


async def say_what_holds_up(stopping: asyncio.Event) -> None:
    """Long after the end has come, say what still waits, and for what."""
    await stopping.wait()
    await asyncio.sleep(2 * PATIENCE)
    for task in asyncio.all_tasks():
        task.print_stack()


async def append_one(url: str, notes: str, payload: int) -> None:
    """Append an event that is not noted, and then one that is, with so many bytes of payload."""
    kept = WriterNotes(notes)
    async with opened(url) as engine, running(engine, patience=PATIENCE) as appender:
        await appender.append(new_stream())
        append = named_append(uuid4(), NO_STREAM, 1, b'"' + b"x" * payload + b'"')
        number = kept.sent(append)
        kept.told(number, "acknowledged", await appender.append(append))


class Writer:
    """What the tasks of one process share."""

    def __init__(
        self, engine: AsyncEngine, appender: Appender, notes: WriterNotes, random: Random, stopping: asyncio.Event,
        pause: float,
    ) -> None:  # fmt: skip
        self._engine, self._appender, self._notes, self._random = engine, appender, notes, random
        self._stopping, self._pause = stopping, pause

    async def append(self, append: Append) -> Appended | LogError:
        """Append, with notes of it."""
        number = self._notes.sent(append)
        try:
            answer = await self._appender.append(append)
        except LogUnavailable as error:
            return error
        except LogError as error:
            self._notes.told(number, "refused")
            return error
        self._notes.told(number, "acknowledged", answer)
        return answer

    async def go_on(self, stream: UUID, *, alone: bool) -> None:
        """Append to one stream, again and again; where the head is unknown, or others append too, it is read."""
        session = Session(self._engine)
        reader, head = Reader(session), NO_STREAM
        while not self._stopping.is_set():
            try:
                head = head if alone else await reader.head(stream)
                answer = await self.append(named_append(stream, head, self._random.randint(1, 4), self._payload()))
                head = answer.head if isinstance(answer, Appended) else await reader.head(stream)
            except LogError:
                await asyncio.sleep(0.1)
            await self._rest()
        await session.close()

    async def begin_streams(self) -> None:
        """Bursts of new streams, answered in one go."""
        while not self._stopping.is_set():
            burst = range(self._random.choice([1, 1, 5, 30]))
            await asyncio.gather(
                *(self.append(named_append(uuid4(), NO_STREAM, self._random.randint(1, 3))) for _ in burst)
            )
            await self._rest()

    async def begin_streams_together(self) -> None:
        """Several streams in one go, now and then with one that exists: then none of them is begun."""
        taken: UUID | None = None
        while not self._stopping.is_set():
            streams = [uuid4() for _ in range(self._random.randint(2, 4))]
            if taken is not None and self._random.random() < 0.2:
                streams[self._random.randrange(len(streams))] = taken
            appends = [named_append(stream, NO_STREAM, self._random.randint(1, 2)) for stream in streams]
            numbers = self._notes.sent_together(appends)
            try:
                answers = await self._appender.append_together(appends)
            except LogUnavailable:
                pass
            except LogError:
                for number in numbers:
                    self._notes.told(number, "refused")
            else:
                for number, answer in zip(numbers, answers, strict=True):
                    self._notes.told(number, "acknowledged", answer)
                taken = streams[0]
            await self._rest()

    async def be_careless(self) -> None:
        """Transactions of one's own, each on the last connection that worked."""
        while not self._stopping.is_set():
            try:
                async with raw_connection(self._engine) as connection:
                    while not self._stopping.is_set():
                        await Transaction(connection, self._notes, self._random).run()
                        await self._rest()
            except (LogError, psycopg.Error, OSError):
                await asyncio.sleep(0.1)

    async def _rest(self) -> None:
        await asyncio.sleep(self._random.choice([0, 1, 1, 2, 5]) * self._pause)

    def _payload(self) -> bytes | None:
        """None, a small one, or one that gets a row of its own and takes several messages on its way."""
        return self._random.choice([None, b'"small"', b'"' + b"x" * self._random.choice([10_000, 100_000]) + b'"'])


class Transaction:
    """One transaction in which somebody appends and dawdles."""

    def __init__(self, connection: AsyncConnection[object], notes: WriterNotes, random: Random) -> None:
        self._connection, self._notes, self._random = connection, notes, random
        self._open: list[tuple[int, Appended]] = []

    async def run(self) -> None:
        """Append, perhaps undo a part, and end it one way or another. Raises what breaks; then nothing is sure."""
        await self._execute("begin")
        await self._append()
        if self._random.random() < 0.3:
            await self._execute("savepoint a")
            before = len(self._open)
            await self._append()
            if self._random.random() < 0.5:
                await self._execute("rollback to a")
                self._tell("refused", before)
                await self._append()
        if self._random.random() < 0.1:
            name = uuid4().hex
            await self._execute(f"prepare transaction '{name}'")
            await asyncio.sleep(self._random.choice([0, 0.02, 0.2]))
            await self._end(f" prepared '{name}'")
        else:
            await self._end("")

    async def _append(self) -> None:
        append = named_append(uuid4(), NO_STREAM, self._random.randint(1, 3))
        number = self._notes.sent(append)
        (answer,) = await send(self._connection, Statement(), Batch([append]), Clock())
        assert answer is not None
        self._open.append((number, answer))
        await asyncio.sleep(self._random.choice([0, 0, 0.001, 0.005, 0.03]))

    async def _end(self, how: str) -> None:
        if self._random.random() < 0.75:
            await self._execute("commit" + how)
            self._tell("acknowledged")
        else:
            await self._execute("rollback" + how)
            self._tell("refused")

    def _tell(self, outcome: str, first: int = 0) -> None:
        ended, self._open = self._open[first:], self._open[:first]
        for number, where in ended:
            if outcome == "acknowledged":
                self._notes.told(number, "acknowledged", where)
            else:
                self._notes.told(number, "refused")

    async def _execute(self, statement: str) -> None:
        await self._connection.execute(statement.encode())
