"""The nodes that are running, as far as their leases say."""

from typing import NamedTuple

from sqlalchemy import text

from perdure.client import Client


class LiveNodes(NamedTuple):
    """How many nodes hold a lease, and which task types they announce."""

    nodes: int
    types: frozenset[str]


async def live_nodes(client: Client) -> LiveNodes:
    """Ask the database. Raises DBAPIError."""
    statement = f"""select n.task_types from "{client.schema}".nodes n where exists (
        select from "{client.schema}".shards s where s.node = n.node and s.lease_until > clock_timestamp())"""
    async with client.engine.connect() as connection:
        rows = (await connection.execute(text(statement))).all()
    return LiveNodes(len(rows), frozenset(name for (types,) in rows for name in types))
