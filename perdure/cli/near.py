"""The events that registered workflows know, and which of them a name is near to."""

from difflib import get_close_matches

from perdure.client import Client


async def known_events(client: Client) -> set[str]:
    """The events that start runs of active workflows, or that their runs wait for. Raises LogError."""
    known: set[str] = set()
    active = {each.workflow_id: each for each in await client.registry.versions() if each.retired_at is None}
    for each in active.values():
        definition = await client.registry.definition(each.digest)
        known |= definition.entries | set(definition.listeners)
    return known


async def near_events(client: Client, name: str) -> str:
    """A question to append to a sentence, or nothing."""
    found = get_close_matches(name, await known_events(client) - {name}, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(found)}?" if found else ""
