"""``perdure run``: register, publish, work until the runs have ended, show them."""

import asyncio
from contextlib import suppress
from uuid import UUID

from perdure import App, Published, StillOpen
from perdure.cli import exits
from perdure.cli.data import read_data, read_definition, text
from perdure.cli.looking import catch_up
from perdure.cli.near import near_events
from perdure.cli.output import remark, remarks, warn
from perdure.cli.place import find_app
from perdure.cli.show import exit_status, print_run
from perdure.cli.verb import Common
from perdure.cli.words import seconds
from perdure_engine.facts import EventRouted
from perdure_eventstore.door import Json


async def run_file(
    common: Common, file: str, event: str, data: str, key: str | None, timeout: str | None, allow_unknown_types: bool
) -> int:
    """The verb. Everything given is read before anything is written."""
    limit, payload, document = seconds(timeout), read_data(data), read_definition(file)
    text("--event", event), text("--key", key)
    app = find_app(common)
    async with app.node():
        registered = await app.client.register(document, allow_unknown_types=allow_unknown_types)
        for each in registered.warnings:
            warn(str(each))
        runs = await _run(app, event, payload, key, limit)
        await catch_up(app.client.engine, app.schema)
        statuses = [await print_run(common, app.client, run) for run in runs]
    return max(map(exit_status, statuses), default=exits.FAILED)


async def _run(app: App, event: str, payload: Json, key: str | None, limit: float | None) -> list[UUID]:
    """Publish, and work until the runs that started have ended, or the time is over."""
    with remarks().status("publishing"):
        published = await app.publish(event, payload, key=key)
    with remarks().status("running"):
        try:
            async with asyncio.timeout(limit):
                routed = await _routed(published)
                runs = [match.run for match in routed.matches if match.run and match.outcome == "started"]
                if not runs:
                    warn(f"the event started no run: {_why(routed)}{await near_events(app.client, event)}")
                for run in runs:
                    await app.client.wait(run, None)
        except TimeoutError:
            remark(f"still open after {limit:g} s; `perdure up` goes on with it")
            with suppress(TimeoutError):
                routed = await published.routed(0.1)
                return [match.run for match in routed.matches if match.run and match.outcome == "started"]
            raise StillOpen(published.event_id, limit or 0.0) from None
    return runs


async def _routed(published: Published) -> EventRouted:
    return await published.routed(None)


def _why(routed: EventRouted) -> str:
    reasons = [f"{match.workflow_id} {match.reason or match.outcome}" for match in routed.matches]
    return "; ".join(reasons) or routed.reason
