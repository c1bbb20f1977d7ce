"""Processes that race for every place in one stream."""

import asyncio
import signal
from collections import Counter
from pathlib import Path
from random import Random
from time import monotonic, sleep
from uuid import UUID

from acceptance.forks import ForkServer
from bad_days.crowd import broken_chains, read_log
from bad_days.notes import WriterNotes, named_append, told_by
from bad_days.verdict import Verdict
from log_checker import findings
from logs import opened, running

from perdure_eventstore.append import Appended
from perdure_eventstore.errors import Conflict
from perdure_eventstore.events import NO_STREAM
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

ENOUGH = 10


async def run(url: str, notes: str, seed: int, stream: str, begin: float) -> None:
    """From the moment ``begin`` on append to ``stream`` as fast as it goes, until SIGTERM."""
    stopping, random, kept = asyncio.Event(), Random(seed), WriterNotes(notes)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with opened(url) as engine, running(engine) as appender:
        session = Session(engine)
        reader, head = Reader(session), NO_STREAM
        await asyncio.sleep(begin - monotonic())
        while not stopping.is_set():
            append = named_append(UUID(stream), head, random.randint(1, 3))
            number = kept.sent(append)
            try:
                answer: Appended = await appender.append(append)
                kept.told(number, "acknowledged", answer)
                head = answer.head
            except Conflict:
                kept.told(number, "refused")
                head = await reader.head(UUID(stream))
            # The winner knows the head first: now and then it lets the other one come up.
            await asyncio.sleep(random.choice([0, 0, 0.002]))
        await session.close()


def race(url: str, forks: ForkServer, folder: Path, seed: int, seconds: float, racers: int = 2) -> Verdict:
    """Let them race, and judge: one winner for every version, and every loser told so."""
    random = Random(seed)
    stream = str(UUID(int=random.getrandbits(128), version=4))
    notes = [folder / f"racer-{n}.notes" for n in range(racers)]
    begin = monotonic() + 0.5
    children = [
        forks.fork(run, url=url, notes=str(file), seed=random.getrandbits(32), stream=stream, begin=begin)
        for file in notes
    ]
    sleep(seconds)
    # A slow machine takes longer until each has won and lost.
    deadline = monotonic() + 30
    while monotonic() < deadline and not all(_has_won_and_lost(file) for file in notes):
        sleep(0.1)
    for child in children:
        child.signal(signal.SIGTERM)
    for child in children:
        child.wait(20)
    told = {file.stem: told_by(file) for file in notes}
    log = read_log(url)
    counts = {"events": len(log)}
    for name, ones in told.items():
        for outcome in ("acknowledged", "refused", "unknown"):
            counts[f"appends {outcome} of {name}"] = sum(one.outcome == outcome for one in ones)
    found = findings(log, [one for ones in told.values() for one in ones], {})
    found += [f"a process failed:\n{child.output}" for child in children if "Traceback" in child.output]
    return Verdict(seed, counts, found + asyncio.run(broken_chains(url)))


def _has_won_and_lost(notes: Path) -> bool:
    outcomes = Counter(one.outcome for one in told_by(notes))
    return min(outcomes["acknowledged"], outcomes["refused"]) > ENOUGH
