"""Node processes of overlapping kinds, each followed by another when it dies."""

import asyncio
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from random import Random
from time import monotonic

from acceptance.forks import Child, ForkServer
from bad_days import node_life
from bad_days.shapes import TYPES

_END_SECONDS = 20.0
_TROUBLE = re.compile(r"\[(error|critical) |never retrieved|Fatal Python error|^Traceback")
"""What a node says when something is wrong with itself."""
_AS_IT_MUST = re.compile("the log was closed before this was (known to be )?recorded")
"""Of one that was taken for dead."""


class Fleet:
    """Every type of task is on all nodes but one, so that much is executed away from its run's owner."""

    def __init__(self, forks: ForkServer, notes: Path, random: Random, ways: Sequence[str], size: int) -> None:
        self._forks, self._notes, self._random, self.ways = forks, notes, random, ways
        self._nodes: list[Child] = []
        self.all: list[Child] = []
        self._size, self._pace = size, 1.5
        self._frozen: set[int] = set()
        for place in range(size):
            self._start(place)

    async def keep(self) -> None:
        """Start another wherever one has died, after a moment; for ever."""
        while True:
            for place, node in enumerate(self._nodes):
                if node.has_ended():
                    await asyncio.sleep(self._random.uniform(0, self._pace))
                    self._start(place)
            await asyncio.sleep(0.05)

    def any(self) -> Child:
        """One of them."""
        return self._random.choice(self._nodes)

    async def freeze(self, seconds: float) -> None:
        """Stop one with SIGSTOP for so long."""
        node = self.any()
        node.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        node.signal(signal.SIGCONT)

    def calm(self) -> None:
        """From now on the dead are followed at once, over the straight way."""
        self._pace, self.ways = 0.2, self.ways[:1]
        for node in self.all:
            node.signal(signal.SIGCONT)

    async def end(self) -> list[str]:
        """Stop them cleanly; what went wrong with that, and what they said themselves."""
        began = monotonic()
        for node in self._nodes:
            node.signal(signal.SIGTERM)
        troubles = []
        for node in self._nodes:
            if not await asyncio.to_thread(node.has_ended, _END_SECONDS):
                troubles.append(f"a node did not stop within {monotonic() - began:.0f} s:\n{node.output[-3000:]}")
                node.kill()
        for node in self.all:
            troubles += [f"a node said:\n{said}" for said in said_by(node.output)]
        return troubles

    def _start(self, place: int) -> None:
        lacking = [name for number, name in enumerate(TYPES) if self._size > 1 and number % self._size == place]
        node = self._forks.fork(
            node_life.live, url=self._random.choice(self.ways), notes=str(self._notes),
            seed=self._random.getrandbits(32), lacking=lacking, rate="100/s",
        )  # fmt: skip
        self.all.append(node)
        self._nodes[place : place + 1] = [node]


def said_by(output: str) -> list[str]:
    """Lines of trouble, each with what follows it."""
    lines = [line for line in output.splitlines() if not _AS_IT_MUST.search(line)]
    return [
        "\n".join(lines[number : number + 60])
        for number, line in enumerate(lines)
        if _TROUBLE.search(line) and not (number and _TROUBLE.search(lines[number - 1]))
    ]
