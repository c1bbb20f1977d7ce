"""Nodes, their Postgres and their clients lead a hard life, while runs of every shape go through; judged at the end."""

import asyncio
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random
from time import monotonic
from uuid import UUID

import orjson
import psycopg
from acceptance.checker import History, Told, check, read_history
from acceptance.forks import ForkServer
from acceptance.run_checker import data_of, payload_of
from bad_days.chaos import PLACES
from bad_days.crowd import broken_chains
from bad_days.errands import Errands
from bad_days.fleet import Fleet
from bad_days.judge import Booked, Call, Evidence, Judge
from bad_days.misfortunes import Misfortunes
from bad_days.notes import lines
from bad_days.shapes import SHAPES, Life
from bad_days.verdict import Verdict
from breaking_proxy import breaking_proxy
from postgres_server import PostgresServer
from psycopg.rows import dict_row

import perdure
from perdure_eventstore.events import RecordedEvent

_REST_SECONDS = 120.0
_FREEZES = (0.3, 1.0, 3.0, 6.0)
_MARKERS = (b"TaskStarted", b"TaskCompleted", b"TaskScheduled", b"RunStarted", b"EventRouted", b"EventPublished",
            b"RunCompleted", b"COMMIT", b"insert into public.ledger", b"completed")  # fmt: skip
"""What goes over the wire in appends, in the ends of transactions and in results on their way to another node."""

_LEFT = """select (select count(*) from perdure.open_runs) as open,
    (select count(*) from perdure.open_runs where not parked) as active,
    (select count(*) from perdure.inbox) as inbox, (select count(*) from perdure.assignments) as assignments,
    (select count(*) from perdure.permits) as permits,
    (select count(*) from perdure.events e where e.type = 'EventPublished' and not exists (
        select from perdure.events r where r.stream = e.stream and r.type = 'EventRouted')) as unrouted"""


class NodeChaos:
    """Blows fall on nodes, their server and their connections. Which, when and on whom is the seed's choice."""

    def __init__(
        self, server: PostgresServer, forks: ForkServer, folder: Path, seed: int, *, runs: int = 500, nodes: int = 3
    ) -> None:
        self._server, self._forks, self._folder, self.seed = server, forks, folder, seed
        self._random, self._size = Random(seed), nodes
        self.lives = _lives(runs, Random(seed + 1))
        self._notes = folder / "handlers.notes"
        self._blows: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        server_blows = self._misfortunes = Misfortunes(server, self._random)
        self._kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (5, self.kill_a_node), (4, self.freeze_a_node), (3, self.stop_a_node), (3, self.set_a_nodes_clock),
            (10, self.cut_a_connection), (5, server_blows.end_backends), (2, server_blows.lose_hints),
            (1, server_blows.kill_the_server), (1, server_blows.restart_the_server), (1, server_blows.kill_a_backend),
        ]  # fmt: skip
        self._findings: list[str] = []

    def run(self, seconds: float) -> Verdict:
        """Let it all happen, and judge."""
        return asyncio.run(self._run(seconds))

    async def _run(self, seconds: float) -> Verdict:
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            connection.execute("create table public.ledger (run uuid, task text, attempt int, token text)")
        async with AsyncExitStack() as stack:
            through, self._proxy = await stack.enter_async_context(breaking_proxy(self._server.url))
            ways = [self._server.url, through]
            settings = perdure.Settings(patience=3.0)
            apps = [await stack.enter_async_context(perdure.App(way, settings=settings)) for way in ways]
            for shape in SHAPES:
                await apps[0].register(dict(shape.definition), allow_unknown_types=True)
            self._misfortunes.open_unrelated()
            stack.callback(self._misfortunes.close)
            self._fleet = Fleet(self._forks, self._notes, Random(self.seed + 2), ways, self._size)
            self._errands = Errands(apps, self._server.url, Random(self.seed + 3))
            keeping = asyncio.create_task(self._fleet.keep())
            sending = asyncio.create_task(self._send_all(seconds))
            try:
                await self._strike(seconds)
                await asyncio.gather(*self._tasks)
                self._check_as_it_is()
                await self._come_to_rest(sending)
            finally:
                sending.cancel()
                keeping.cancel()
                await asyncio.gather(keeping, sending, return_exceptions=True)
            self._findings += await self._fleet.end()
        return await self._judge()

    async def _send_all(self, seconds: float) -> None:
        """Every run in its time: all are begun before the blows end."""
        began, pace = monotonic(), 0.85 * seconds / len(self.lives)
        async with asyncio.TaskGroup() as group:
            for number, life in enumerate(self.lives):
                await asyncio.sleep(max(0.0, began + number * pace - monotonic()))
                group.create_task(self._errands.run(life))

    async def _strike(self, seconds: float) -> None:
        deadline = monotonic() + seconds
        weights, kinds = zip(*self._kinds, strict=True)
        while monotonic() < deadline:
            await asyncio.sleep(self._random.uniform(0.1, 1.2))
            (blow,) = self._random.choices(kinds, weights)
            self._blows[blow.__name__.strip("_").replace("_", " ")] += 1
            with suppress(psycopg.OperationalError):  # a server that has not come back yet
                await blow()

    async def kill_a_node(self) -> None:
        self._fleet.any().kill()

    async def stop_a_node(self) -> None:
        """Cleanly."""
        self._fleet.any().signal(signal.SIGTERM)

    async def freeze_a_node(self) -> None:
        task = asyncio.create_task(self._fleet.freeze(self._random.choice(_FREEZES)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def set_a_nodes_clock(self) -> None:
        self._fleet.any().signal(signal.SIGUSR1)

    async def cut_a_connection(self) -> None:
        self._proxy.break_next(self._random.choice(_MARKERS), self._random.choice(PLACES))

    def _check_as_it_is(self) -> None:
        """Log and working set agree at any moment, in whatever state the nodes are."""
        findings = check(read_history(self._server.url), at_rest=False)
        self._findings += [f"in the midst of it: {finding}" for finding in findings]

    async def _come_to_rest(self, sending: "asyncio.Task[None]") -> None:
        self._fleet.calm()
        try:
            async with asyncio.timeout(_REST_SECONDS):
                await sending
                while not self._is_at_rest():
                    await asyncio.sleep(0.2)
        except TimeoutError:
            self._findings.append(f"it has not come to rest after {_REST_SECONDS:g} s: {self._left()}")
        except ExceptionGroup as errors:
            self._findings += [f"a client was refused: {error!r}" for error in errors.exceptions]

    def _left(self) -> dict[str, int]:
        with psycopg.connect(self._server.url, row_factory=dict_row) as connection:
            return connection.execute(_LEFT.encode()).fetchone() or {}

    def _is_at_rest(self) -> bool:
        left = self._left()
        return left.pop("open") == sum(life.shape.end == "open" for life in self.lives) and not any(left.values())

    async def _judge(self) -> Verdict:
        history = read_history(self._server.url)
        told = Told(self._errands.published, self._errands.started)
        with psycopg.connect(self._server.url) as connection:
            ledger = connection.execute("select run::text, task, attempt, token from public.ledger").fetchall()
        calls = [Call(*line) for line in lines(self._notes)]
        judge = Judge(Evidence(history, self.lives, [Booked(*row) for row in ledger], calls))
        findings = [*self._findings, *check(history, told), *judge.findings, *await broken_chains(self._server.url)]
        counts = {
            "runs": len(self.lives), "events": len(history.events), "handlers called": len(calls),
            "attempts away from their run's owner": sum(map(_is_away, history.events)), "bookings": len(ledger),
            "node processes": len(self._fleet.all), "acknowledged": self._errands.acknowledged,
            "sent again": self._errands.patience, **dict(sorted(judge.ends.items())),
            **dict(sorted(judge.excused.items())), **dict(sorted(self._blows.items())),
        }  # fmt: skip
        return Verdict(self.seed, counts, findings, tuple(stories(history, findings)))


def _is_away(event: RecordedEvent) -> bool:
    if event.type != "TaskStarted":
        return False
    return bool(data_of(event)["node"] != orjson.loads(event.metadata).get("node"))


def _lives(count: int, random: Random) -> list[Life]:
    """Runs of every shape, in any order; those that take long come first."""
    early = [shape for shape in SHAPES if shape.early for _ in range(shape.share)]
    common = [shape for shape in SHAPES if not shape.early]
    # Each shape comes at least once, if there is room.
    rest = random.sample(common, min(len(common), count)) + random.choices(
        common, [shape.share for shape in common], k=max(0, count - len(common) - len(early))
    )
    random.shuffle(rest)
    for shape in early:
        rest.insert(random.randrange(len(rest) // 3 + 1), shape)
    return [Life(shape, number) for number, shape in enumerate(rest[: max(count, 1)])]


def stories(history: History, findings: Sequence[str], most: int = 5) -> list[str]:
    """What happened to the runs that were named first."""
    named = list(dict.fromkeys(UUID(text) for each in findings for text in re.findall(r"\brun ([0-9a-f-]{36})", each)))
    return [
        f"the story of run {run}:\n" + "\n".join(_line(event) for event in history.events if event.stream == run)
        for run in named[:most]
    ]


def _line(event: RecordedEvent) -> str:
    by = orjson.loads(event.metadata).get("node", "a client")
    error = payload_of(event).get("error") or {}
    said = f" {error.get('type')}: {str(error.get('message'))[:200]}" if error else ""
    return f"    {event.position:>6} {event.recorded_at:%M:%S.%f} {event.type} {event.data.decode()} by {by[-6:]}{said}"
