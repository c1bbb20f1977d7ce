"""The verbs of ``perdure schedule`` and their options. What each does is in ``schedules``."""

from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from perdure.cli.verb import Common, verb

schedule = typer.Typer(help="Runs that start by themselves, at the times of a cron expression.", no_args_is_help=True)

Exit = Coroutine[Any, Any, int]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]
_TIME = "A day such as 2026-01-31, or a time such as 2026-01-31T09:00, in the schedule's zone unless it says another."


@verb(schedule, "set")
def set_(
    common: Common,
    name: Name,
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="A workflow_id.")],
    cron: Annotated[str, typer.Option("--cron", metavar="TIMES", help="Such as '0 9 * * mon-fri', or @daily.")],
    timezone: Annotated[str, typer.Option("--timezone", metavar="ZONE", help="Such as Europe/Berlin.")] = "UTC",
    input: Annotated[
        str, typer.Option("--input", metavar="JSON", help="Its runs' input: JSON, @FILE, or - for standard input.")
    ] = "{}",
    event: Annotated[str | None, typer.Option("--event", metavar="NAME", help="The entry they start with.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Their key, where the workflow has one.")] = None,
    overlap: Annotated[
        str, typer.Option("--overlap", help="While the run before is open: skip, queue, allow or cancel_other.")
    ] = "skip",
    catch_up: Annotated[
        str, typer.Option("--catch-up", help="Of what passed while no node ran, make up for: all, last or none.")
    ] = "last",
) -> Exit:
    """Make or change a schedule. The same again changes nothing."""
    from perdure.cli.schedules import set_schedule

    return set_schedule(common, (name, workflow, cron, timezone, input, event, key, overlap, catch_up))


@verb(schedule, "list")
def list_(common: Common) -> Exit:
    """List every schedule."""
    from perdure.cli.schedules import list_schedules

    return list_schedules(common)


@verb(schedule)
def show(
    common: Common,
    name: Name,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Of its events, so many at most, the last ones.")] = 10,
) -> Exit:
    """Show a schedule: when it is due next, and what came of the times before."""
    from perdure.cli.schedules import show_schedule

    return show_schedule(common, name, limit)


@verb(schedule)
def pause(
    common: Common,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is recorded.")] = "",
) -> Exit:
    """Start nothing more of a schedule, nor of its backfills, until it is resumed."""
    from perdure.cli.schedules import pause_schedule

    return pause_schedule(common, name, reason)


@verb(schedule)
def resume(common: Common, name: Name) -> Exit:
    """Go on with the next time; what passed meanwhile is left to `backfill`."""
    from perdure.cli.schedules import resume_schedule

    return resume_schedule(common, name)


@verb(schedule)
def delete(common: Common, name: Name) -> Exit:
    """Forget a schedule; its runs under way go on."""
    from perdure.cli.schedules import delete_schedule

    return delete_schedule(common, name)


@verb(schedule)
def backfill(
    common: Common,
    name: Name,
    from_: Annotated[str, typer.Option("--from", metavar="TIME", help=_TIME)],
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="The same; a day is meant with all of it.")],
    overlap: Annotated[
        str | None, typer.Option("--overlap", help="queue (one after the other) or allow (side by side).")
    ] = None,
) -> Exit:
    """Start a run for every time in a range that has none, also from before the schedule was set.

    A range holds 10,000 times at most. Of a schedule that is paused, they start once it is resumed.
    """
    from perdure.cli.schedules import backfill_schedule

    return backfill_schedule(common, name, from_, until, overlap)
