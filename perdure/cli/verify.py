"""``perdure verify``: the check of the log."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure import App
from perdure.cli import exits
from perdure.cli.exits import WrongUse
from perdure.cli.looking import looking
from perdure.cli.output import emit, people, remark, remarks, warn
from perdure.cli.place import find_app
from perdure.cli.run_names import find_run
from perdure.cli.verb import Common
from perdure.cli.verify_place import PlaceFile
from perdure_eventstore.checking.faults import Fault
from perdure_eventstore.database import raw_connection
from perdure_eventstore.heads import split_notes
from perdure_eventstore.signing import load_public
from perdure_eventstore.verify import Progress as Checked
from perdure_eventstore.verify import verify


class Outside(NamedTuple):
    """What is known of the log outside of the database."""

    notes: Sequence[str] = ()
    where: str = ""
    keys: Sequence[Ed25519PublicKey] = ()


async def check_log(
    common: Common, run: str | None, heads: str | None, public_keys: Sequence[str], resume: str | None
) -> int:
    """The verb. The first event that is not what was recorded is named."""
    if run is not None and (heads or public_keys or resume):
        raise WrongUse("a single run has no heads and no place to resume: leave out RUN to check the whole log")
    app, show = find_app(common), remarks().is_terminal and not common.json
    async with looking(app, views=run is not None) as client:
        if run is None:
            outside, file = _outside(app, heads, public_keys), PlaceFile(Path(resume)) if resume else None
            checked = await check(client.engine, client.schema, show=show, outside=outside, file=file)
        else:
            stream = await find_run(client, run)
            async with raw_connection(client.engine) as connection:
                steps = [step async for step in verify(connection, client.schema, stream)]
            if not steps:
                raise WrongUse(f"there is no run {stream}")
            checked = steps[-1]
    if common.json:
        emit(_as_json(checked))
    elif checked.fault is None:
        heads_right = f"; signed heads checked: {checked.heads}" if checked.heads else ""
        people().print(
            f"[green]every hash is right:[/] {checked.events} events in {checked.streams} streams{heads_right}"
        )
    if checked.fault is not None:
        raise exits.Failed(sentence(checked.fault))
    return exits.DONE


async def check(
    engine: AsyncEngine,
    schema: str,
    *,
    show: bool = False,
    outside: Outside | None = None,
    file: PlaceFile | None = None,
) -> Checked:
    """Check the whole log, with a bar on standard error if ``show``, keeping the place in ``file``.

    Raises HeadRefused, PlaceRefused, LogError.
    """
    outside, checked = outside or Outside(), Checked(0, 0)
    place = file.read() if file else None
    if place:
        remark(f"going on after position {place.position}: {place.events} events were checked before")
    columns = (TextColumn("checking"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    async with raw_connection(engine) as connection:
        checking = verify(
            connection, schema, heads=outside.notes, heads_from=outside.where, keys=outside.keys, place=place
        )
        with Progress(*columns, console=remarks(), transient=True, disable=not show) as bar:
            task = bar.add_task("checking", total=None)
            async for checked in _kept(checking, file):
                bar.update(task, completed=checked.position, total=checked.end)
    return checked


def sentence(fault: Fault) -> str:
    """What to say of a fault."""
    return f"the log was changed: {fault}" if fault.position is None else f"the log was changed at {fault}"


async def _kept(checking: AsyncIterator[Checked], file: PlaceFile | None) -> AsyncIterator[Checked]:
    """The same, each place written to ``file``: now and then, and at the end, however it comes."""
    try:
        async for checked in checking:
            if file and checked.place:
                file.at(checked.place)
            yield checked
    finally:
        if file:
            file.write()


def _outside(app: App, file: str | None, public_keys: Sequence[str]) -> Outside:
    """What the options say, and the settings where they say nothing. Raises WrongUse, KeyRefused."""
    settings = app.settings.heads
    paths = [Path(path) for path in public_keys] or ([settings.key] if settings.key else [])
    path = Path(file) if file else settings.file if settings.file and settings.file.exists() else None
    notes: list[str] = []
    if path is not None:
        try:
            text = path.read_text()
        except OSError as error:
            raise WrongUse(f"the heads in {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise WrongUse(f"the heads in {path} cannot be read: {error}") from error
        notes = list(split_notes(text))
        if not notes:
            raise WrongUse(f"{path} holds no signed head")
        if other := len("".join(text.split())) - sum(len("".join(note.split())) for note in notes):
            warn(f"{other} characters of {path} are no head, and are passed over: a head may have been damaged")
    elif settings.file:
        warn(f"the heads that are published to {settings.file} are not there: they are not compared")
    return Outside(notes, str(path), [load_public(path) for path in paths])


def _as_json(checked: Checked) -> dict[str, Any]:
    fault = checked.fault._asdict() if checked.fault else None
    return {"events": checked.events, "streams": checked.streams, "heads": checked.heads, "fault": fault}
