"""``perdure export``: events out of the log."""

import re
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from perdure.cli import exits
from perdure.cli.exits import WrongUse
from perdure.cli.files import written
from perdure.cli.looking import looking
from perdure.cli.output import emit, remark
from perdure.cli.place import find_app
from perdure.cli.run_names import find_run, full_id
from perdure.cli.transferring import bar
from perdure.cli.verb import Common
from perdure.client import Client
from perdure_engine.belongings import definition_streams
from perdure_eventstore.session import Session
from perdure_eventstore.transfer.export import Exported, export
from perdure_eventstore.transfer.form import form_named
from perdure_eventstore.transfer.frame import Selection
from perdure_eventstore.transfer.places import log_origin, position_before

_FORMS = ("jsonl", "cloudevents")


class Wanted(NamedTuple):
    """What was asked for, as it was written."""

    runs: tuple[str, ...]
    all: bool
    since: str | None
    until: str | None
    definitions: bool


async def export_events(common: Common, wanted: Wanted, form: str, output: str) -> int:
    """The verb. On standard output stands the export itself, and no summary."""
    if form not in _FORMS:
        raise WrongUse(f"--format takes jsonl or cloudevents, not {form!r:.60}")
    if wanted.runs and wanted.all:
        raise WrongUse("either RUN… or --all")
    if not (wanted.runs or wanted.all or wanted.since or wanted.until):
        raise WrongUse("say what to export: RUN…, --all, --since TIME or --until TIME")
    views = any(full_id(name) is None for name in wanted.runs)
    async with looking(find_app(common), views=views) as client:
        session = Session(client.engine)
        try:
            selection = await _selection(client, session, wanted)
            log = await log_origin(session, client.schema)
        finally:
            await session.close()
        with written(output) as file, bar(common, "exporting") as progress:
            done = await export(
                client.engine, file.write, form_named(form, log), selection, log=log, schema=client.schema,
                progress=progress,
            )  # fmt: skip
    if output != "-":
        _say(common, done, output, log)
    return exits.DONE


async def _selection(client: Client, session: Session, wanted: Wanted) -> Selection:
    streams: tuple[UUID, ...] | None = None
    if wanted.runs:
        runs = list(dict.fromkeys([await find_run(client, name) for name in wanted.runs]))
        theirs = await definition_streams(session, runs, client.schema)
        streams = (*runs, *theirs) if wanted.definitions else tuple(runs)
    after = 0 if wanted.since is None else await _position(client, session, "--since", wanted.since)
    last = None if wanted.until is None else await _position(client, session, "--until", wanted.until)
    return Selection(streams, after, last)


async def _position(client: Client, session: Session, option: str, given: str) -> int:
    if re.fullmatch("p[0-9]{1,18}", given):
        return int(given[1:])
    try:
        moment = datetime.fromisoformat(given).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise WrongUse(f"{option} takes a time such as 2026-01-31T12:00:00Z, or p5000, not {given!r:.60}") from error
    return await position_before(session, moment, client.schema)


def _say(common: Common, done: Exported, output: str, log: str) -> None:
    if common.json:
        emit({"log": log, "output": output, **done._asdict()})
    else:
        remark(f"{done.events} events are in {output}; {done.streams} streams begin there")
