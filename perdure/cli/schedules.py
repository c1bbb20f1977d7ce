"""``perdure schedule``."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, time, timedelta
from itertools import islice
from typing import Any, cast

import orjson
from rich.markup import escape
from rich.table import Table

from perdure.cli import exits
from perdure.cli.data import read_data, text
from perdure.cli.history import as_json as event_as_json
from perdure.cli.looking import looking
from perdure.cli.nodes import live_nodes
from perdure.cli.output import emit, people, remark, warn
from perdure.cli.place import find_app
from perdure.cli.verb import Common
from perdure.cli.words import local, shortened, status
from perdure.client import Client
from perdure_engine.facts import CatchUp, Overlap
from perdure_engine.schedules.book import Book, Happened
from perdure_engine.schedules.schedule import Schedule
from perdure_engine.schedules.wanted import Wanted

_NEXT = 5
"""How many times to come are shown."""


async def set_schedule(common: Common, given: tuple[Any, ...]) -> int:
    """The verb ``schedule set``."""
    name, workflow, cron, timezone, input_, event, key, overlap, catch_up = given
    for what, value in (("NAME", name), ("--event", event), ("--key", key), ("--cron", cron)):
        text(what, value)
    wanted = Wanted(
        name, workflow, cron, timezone, read_data(input_), event, key, cast("Overlap", overlap),
        cast("CatchUp", catch_up),
    )  # fmt: skip
    async with looking(find_app(common), views=False) as client:
        await client.check_key()
        schedule = await client.schedules.set(wanted)
        await _tell(common, client, schedule, f"{name} is due next at {_there(schedule, schedule.next_due)}")
    return exits.DONE


async def list_schedules(common: Common) -> int:
    """The verb ``schedule list``."""
    async with looking(find_app(common), views=False) as client:
        schedules = await client.schedules.all()
    if common.json:
        for each in schedules:
            emit(as_json(each))
    elif schedules:
        people().print(_table(schedules))
    else:
        remark("there is no schedule yet")
    return exits.DONE


async def show_schedule(common: Common, name: str, limit: int) -> int:
    """The verb ``schedule show``."""
    async with looking(find_app(common), views=False) as client:
        schedule = await client.schedules.get(name)
        happened = await client.schedules.history(name, limit) if limit else []
    to_come = [] if schedule.paused else _to_come(schedule)
    if common.json:
        events = [event_as_json(each.recorded) for each in happened]
        emit({**as_json(schedule), "to_come": to_come, "events": events})
        return exits.DONE
    people().print(_table([schedule]))
    if to_come:
        people().print("\nto come: " + ", ".join(_there(schedule, moment) for moment in to_come))
    if happened:
        people().print()
        people().print(_happened(happened))
    return exits.DONE


async def pause_schedule(common: Common, name: str, reason: str) -> int:
    """The verb ``schedule pause``."""
    text("--reason", reason)
    return await _change(common, f"{name} is paused", lambda book: book.pause(name, reason))


async def resume_schedule(common: Common, name: str) -> int:
    """The verb ``schedule resume``."""
    return await _change(common, f"{name} goes on", lambda book: book.resume(name))


async def delete_schedule(common: Common, name: str) -> int:
    """The verb ``schedule delete``."""
    async with looking(find_app(common), views=False) as client:
        deleted = await client.schedules.delete(name)
    if common.json:
        emit({"name": name, "state": "deleted", "stream": deleted.id})
    else:
        remark(
            f"{name} is deleted; its runs under way go on; `perdure erase {deleted.id}` takes its input out of the log"
        )
    return exits.DONE


async def backfill_schedule(common: Common, name: str, from_: str, until: str, overlap: str | None) -> int:
    """The verb ``schedule backfill``."""

    async def ask(book: Book) -> Schedule:
        schedule = await book.get(name)
        start, end = _moment("--from", from_, schedule), _moment("--until", until, schedule, end=True)
        return await book.backfill(name, start, end, overlap)

    async with looking(find_app(common), views=False) as client:
        schedule = await ask(client.schedules)
        later = " once it is resumed: it is paused" if schedule.paused else ""
        await _tell(common, client, schedule, f"{name} is backfilled from {from_} until {until}{later}")
    return exits.DONE


async def _change(common: Common, sentence: str, work: Callable[[Book], Awaitable[Schedule]]) -> int:
    async with looking(find_app(common), views=False) as client:
        await _tell(common, client, await work(client.schedules), sentence)
    return exits.DONE


async def _tell(common: Common, client: Client, schedule: Schedule, sentence: str) -> None:
    if not schedule.paused and not (await live_nodes(client)).nodes:
        warn("no node is running: nothing is started until `perdure up` runs")
    if common.json:
        emit(as_json(schedule))
    else:
        remark(sentence)


def _moment(what: str, given: str, schedule: Schedule, *, end: bool = False) -> datetime:
    """A time as somebody wrote it. Raises WrongUse."""
    try:
        moment = datetime.fromisoformat(given)
    except ValueError as error:
        raise exits.WrongUse(
            f"{what} is a day such as 2026-01-31 or a time such as 2026-01-31T09:00, not {given!r:.60}"
        ) from error
    if end and len(given) <= len("2026-01-31") and moment.time() == time():
        moment += timedelta(days=1, microseconds=-1)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=schedule.times.zone)


def as_json(schedule: Schedule) -> dict[str, Any]:
    """The schedule for machines."""
    return {
        "name": schedule.name,
        "workflow_id": schedule.workflow_id,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "overlap": schedule.overlap,
        "catch_up": schedule.catch_up,
        "state": _state(schedule),
        "next_due": None if schedule.paused else schedule.next_due,
        "last_due": schedule.last_due,
        "last_run": schedule.last_run,
        "queued": schedule.queue,
        "backfills": [{"from": each.start, "until": each.end, "overlap": each.overlap} for each in schedule.backfills],
        "backlog": [each.due for each in schedule.backlog],
        "stream": schedule.id,
    }


def _state(schedule: Schedule) -> str:
    return "paused" if schedule.paused else "active"


def _to_come(schedule: Schedule) -> list[datetime]:
    far = datetime.max.replace(tzinfo=UTC) - timedelta(days=400)
    return list(islice(schedule.times.between(schedule.next_due, far), _NEXT))


def _there(schedule: Schedule, moment: datetime) -> str:
    """A moment on the schedule's own clocks."""
    return f"{schedule.times.local(moment):%a %Y-%m-%d %H:%M %Z}"


def _table(schedules: list[Schedule]) -> Table:
    table = Table(
        "schedule", "workflow", "cron", "zone", "overlap", "catch up", "state", "next due", "last run", "waiting",
        box=None, pad_edge=False, header_style="bold",
    )  # fmt: skip
    for each in schedules:
        table.add_row(
            escape(each.name),
            each.workflow_id,
            escape(each.cron),
            each.timezone,
            each.overlap,
            each.catch_up,
            status(_state(each)),
            "" if each.paused else _there(each, each.next_due),
            str(each.last_run or ""),
            _waiting(each),
        )
    return table


def _waiting(schedule: Schedule) -> str:
    parts = [f"{len(schedule.queue)} queued"] if schedule.queue else []
    if schedule.backlog or schedule.backfills:
        parts.append("a backfill")
    return ", ".join(parts)


def _happened(happened: list[Happened]) -> Table:
    table = Table("recorded", "event", "facts", box=None, pad_edge=False, header_style="bold")
    for recorded, _ in happened:
        facts = {name: value for name, value in orjson.loads(recorded.data).items() if name != "next_due"}
        said = "  ".join(f"{name}={value}" for name, value in facts.items())
        table.add_row(local(recorded.recorded_at), recorded.type, escape(shortened(said, 140)))
    return table
