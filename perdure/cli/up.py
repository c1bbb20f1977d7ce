"""``perdure up``: a node until it is told to stop."""

import asyncio
import os

from perdure.cli import exits
from perdure.cli.output import emit, remark
from perdure.cli.place import find_app
from perdure.cli.verb import Common
from perdure.collector import spare_collector
from perdure.logging import configure


async def work(common: Common) -> int:
    """The verb. A signal cancels it: attempts are interrupted, leases given back, and that is a success."""
    configure(common.verbose + 1)
    app = find_app(common, named=True)
    try:
        async with app.node():
            if common.json:
                emit({"pid": os.getpid(), "task_types": app.types.names()})
            remark(f"a node is working, with the task types {', '.join(app.types.names())}; Ctrl-C stops it")
            spare_collector()
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        remark("stopped; what was under way goes on with the next node")
    return exits.DONE
