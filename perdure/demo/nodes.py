"""Real node processes, to be killed."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

LEASE_SECONDS = 2.0
_PATIENCE = 10.0


@asynccontextmanager
async def node_process(database: str, log: Path) -> AsyncIterator[Process]:
    """``perdure up`` in a process of its own until the block ends; its log lines go to ``log``."""
    environment = {**os.environ, "PERDURE_LEASE": str(LEASE_SECONDS)}
    arguments = ("-m", "perdure.demo.node", "up", "--app", "perdure.demo.application", "--database", database)
    with log.open("ab") as lines:
        # In a session of its own, so that Ctrl-C reaches the demo alone, which then stops its nodes.
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=PIPE, stdout=lines, stderr=lines, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        await _stop(process)


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_PATIENCE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
