"""The story that ``perdure demo`` tells: run, kill, resume, verify."""

import asyncio
import os
import shlex
import shutil
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.markup import escape
from sqlalchemy import text

from perdure import App, Json, Settings
from perdure.cli import exits
from perdure.cli.exits import Failed
from perdure.cli.history import history_table
from perdure.cli.looking import catch_up, looking
from perdure.cli.output import emit
from perdure.cli.show import print_run
from perdure.cli.verb import Common
from perdure.cli.verify import check, sentence
from perdure.client import Client
from perdure.database import EMBEDDED, opened
from perdure.demo.nodes import LEASE_SECONDS, node_process
from perdure.demo.teller import Teller
from perdure.demo.workflow import COUNT_SECONDS, REPORT, add_tasks, example
from perdure_engine.definitions.document import read_document

_PATIENCE = 40.0


async def tell(common: Common, folder: str) -> int:
    """The verb ``demo``. The folder may be kept, and told in again."""
    begun, place = time.monotonic(), Path(folder).absolute()
    database = f"{EMBEDDED}{place}"
    teller = Teller(quiet=common.json)
    async with AsyncExitStack() as stack:
        with teller.waiting("starting an embedded Postgres"):
            app = App(database, settings=Settings.load().model_copy(update={"lease": LEASE_SECONDS}))
            add_tasks(app)
            # Held to the end, so that the server outlives the nodes.
            await stack.enter_async_context(opened(database, app.schema))
        first = await _registration(app, teller, common)
        second = await _report(app, teller, common, place)
        checked = await _check(app, teller)
    seconds = round(time.monotonic() - begun, 1)
    if common.json:
        emit({"runs": [first, second], "events": checked, "seconds": seconds})
    else:
        _farewell(teller, folder, seconds)
    return exits.DONE


async def _registration(app: App, teller: Teller, common: Common) -> UUID:
    """The seed's example: two tasks, started by one event."""
    teller.chapter("An event starts a workflow")
    async with app.node():
        await app.register(read_document(example("user_registration.json")))
        teller.say("registered [bold]examples/user_registration.json[/]: a welcome e-mail and a profile, side by side")
        payload = {"user_email": "ada@example.org", "user_data": {"name": "Ada"}}
        published = await app.publish("user_registered", payload)
        teller.say(f"published [bold]user_registered[/]: on the disk, at position {published.position} of the log")
        with teller.waiting("running both tasks"):
            run = (await published.runs(_PATIENCE))[0]
            result = await run.result(_PATIENCE)
        await _show(teller, common, app.client, run.run_id)
        await _proofs(app, teller, run.run_id, result)
    return run.run_id


async def _proofs(app: App, teller: Teller, run: UUID, result: dict[str, Any]) -> None:
    """What the two tasks really did."""
    async with app.database.connect() as connection:
        statement = f'select document_id, document::text from "{app.schema}".documents where run_id = :run'
        row = (await connection.execute(text(statement), {"run": run})).one()
    teller.say(f"a row in perdure.documents: {row[0]}  {escape(row[1])}")
    file = Path(result["send_welcome_email"].get("file", ""))
    if file.is_file():
        teller.say(f"a message in the outbox: {escape(os.path.relpath(file))}")
        teller.quote(file.read_text())


async def _report(app: App, teller: Teller, common: Common, place: Path) -> UUID:
    """The demo's own workflow: its node is killed in the middle of a task, and another one goes on."""
    teller.chapter("A node dies in the middle of a task")
    async with looking(app, views=False) as client:
        await client.register(REPORT)
        run = await client.start(
            "nightly_report", Json.of({"shop": "corner", "email": "ada@example.org"}), None, None, None
        )
        async with node_process(app.database_name, place / "node.log") as node:
            teller.say(f"a node runs as process {node.pid}; it counts for {COUNT_SECONDS} s")
            with teller.waiting("waiting until the task is under way"):
                await _under_way(client, run.run_id, "count", node.pid, place)
                await asyncio.sleep(COUNT_SECONDS / 3)
            node.kill()
            await node.wait()
            teller.say(f"[bold red]kill -9 {node.pid}[/]: gone, with the task half done")
        async with node_process(app.database_name, place / "node.log") as node:
            teller.say(f"another node starts as process {node.pid}; the dead one's lease lasts {LEASE_SECONDS:g} s")
            with teller.waiting("waiting for it to take over and finish"):
                await client.wait(run.run_id, _PATIENCE)
        teller.say("[green]the run is completed[/]; its history:")
        events = [event async for event in client.reader.stream(run.run_id)]
        teller.show(history_table(events))
        await catch_up(client.engine, client.schema)
        await _show(teller, common, client, run.run_id)
    return run.run_id


async def _under_way(client: Client, run: UUID, task: str, pid: int, place: Path) -> None:
    try:
        async with asyncio.timeout(_PATIENCE):
            while (await client.load(run)).state.task(task).status != "started":
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise Failed(f"process {pid} did not begin the task within {_PATIENCE:g} s: see {place / 'node.log'}") from None


async def _show(teller: Teller, common: Common, client: Client, run: UUID) -> None:
    if not common.json:
        await catch_up(client.engine, client.schema)
        await print_run(common, client, run)


async def _check(app: App, teller: Teller) -> int:
    teller.chapter("Was anything changed since?")
    async with looking(app, views=False) as client:
        checked = await check(client.engine, client.schema)
    if checked.fault is not None:
        raise Failed(sentence(checked.fault))
    teller.say(f"[green]every hash is right[/]: {checked.events} events in {checked.streams} streams")
    return checked.events


def _farewell(teller: Teller, folder: str, seconds: float) -> None:
    database, perdure = shlex.quote(f"{EMBEDDED}{folder}"), _command()
    teller.summary(
        f"told in {seconds} s",
        [
            (f"{perdure} history last --database {database}", "every event of the run above"),
            (f"{perdure} runs --database {database}", "all runs"),
            (f"{perdure} schema", "what a definition may say"),
            (f"{perdure} up --database embedded:.perdure", "a node of your own; Ctrl-C stops it"),
        ],
    )


def _command() -> str:
    """How to call this very Perdure from here."""
    ours = Path(sys.executable).parent / "perdure"
    found = shutil.which("perdure")
    return "perdure" if found and Path(found) == ours else shlex.quote(os.path.relpath(ours))
