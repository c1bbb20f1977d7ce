"""Which run is meant: its id, the beginning of it, or ``last``."""

from uuid import UUID

from perdure.cli.exits import WrongUse
from perdure.client import Client
from perdure_projections.queries import find_runs_by_prefix, last_run


def full_id(given: str) -> UUID | None:
    """The id, if ``given`` is a whole one."""
    try:
        return UUID(given) if len(given) >= 32 else None
    except ValueError:
        return None


def parse_id(option: str, given: str | None) -> UUID | None:
    """The id given with an option. Raises WrongUse."""
    if given is None:
        return None
    if (found := full_id(given)) is None:
        raise WrongUse(f"{option} takes a UUID, not {given!r:.60}")
    return found


async def find_run(client: Client, given: str) -> UUID:
    """The id of the one run meant. Raises WrongUse."""
    if (whole := full_id(given)) is not None:
        return whole
    if given == "last":
        last = await last_run(client.engine, client.schema)
        if last is None:
            raise WrongUse("there is no run yet")
        return last.run
    if not given.strip("-"):
        raise WrongUse(f"{given!r:.60} names no run: give its id, the beginning of it, or last")
    try:
        found = await find_runs_by_prefix(client.engine, client.schema, given, limit=3)
    except ValueError as error:
        raise WrongUse(str(error)) from error
    if not found:
        raise WrongUse(f"there is no run whose id begins with {given}")
    if len(found) > 1:
        raise WrongUse(f"several runs begin with {given}: {', '.join(str(row.run) for row in found)}")
    return found[0].run
