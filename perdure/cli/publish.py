"""``perdure publish``."""

from contextlib import suppress

from rich.markup import escape

from perdure import Published
from perdure.cli import exits
from perdure.cli.data import read_data, text
from perdure.cli.looking import looking
from perdure.cli.near import known_events, near_events
from perdure.cli.nodes import live_nodes
from perdure.cli.output import emit, people, warn
from perdure.cli.place import find_app
from perdure.cli.run_names import find_run, parse_id
from perdure.cli.verb import Common
from perdure.client import Client
from perdure_engine.facts import EventPublished, EventRouted

_PATIENCE = 2.0
"""Seconds for a running node to route the event."""


async def publish_event(
    common: Common, event: str, data: str, key: str | None, event_id: str | None, run: str | None
) -> int:
    """The verb. What the event met is told if a node is there to route it."""
    payload, own_id = read_data(data), parse_id("--id", event_id)
    text("the event's name", event), text("--key", key)
    async with looking(find_app(common), views=run is not None) as client:
        target = await find_run(client, run) if run is not None else None
        fact = EventPublished(name=event, key=key, run=target, payload=payload)
        published = await client.publish(fact, own_id)
        routed = await _routed(client, published)
        _print(common, published, event, routed)
        if target is None and event not in await known_events(client):
            warn(f"no workflow knows the event {event}{await near_events(client, event)}")
        elif routed is not None and not routed.matches:
            warn(f"it met nothing: {routed.reason}")
    return exits.DONE


async def _routed(client: Client, published: Published) -> EventRouted | None:
    if not (await live_nodes(client)).nodes:
        warn("no node is running: the event is recorded, and will be routed once `perdure up` runs")
        return None
    with suppress(TimeoutError):
        return await published.routed(_PATIENCE)
    return None


def _print(common: Common, published: Published, event: str, routed: EventRouted | None) -> None:
    if common.json:
        emit(
            {
                "event_id": published.event_id,
                "position": published.position,
                "event": event,
                "matches": None if routed is None else routed.matches,
                "reason": None if routed is None else routed.reason or None,
            }
        )
        return
    people().print(f"{published.event_id} at position {published.position}", soft_wrap=True)
    for match in routed.matches if routed else ():
        said = f"  {match.outcome} {match.workflow_id} {match.run or ''} {match.reason}"
        people().print(escape(said.rstrip()), soft_wrap=True)
