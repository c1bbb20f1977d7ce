"""Attempts on other nodes than their run's owner: each has its row, or what came of it is in the run's inbox.

Who owns a run and which nodes live is in no log: only of a run whose owner lives, and of an attempt on another node
that lives, the row can be missed. An owner that takes an attempt back deletes the row a moment before it records that,
so a row that is missing has to be missed twice. It cannot be made again: its node may have ended the attempt because
of it, and would call the handler a second time. The attempt is interrupted, as if its node had died.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from perdure_engine.doctor.expected import Expected
from perdure_engine.doctor.faults import Fault, Row, compared
from perdure_engine.doctor.snapshot import Snapshot
from perdure_engine.identity import shard_of

TABLE: Final = "assignments"

Told = tuple[UUID, str, int]
"""A run, a task of it and the attempt of which it was told what came."""


class Nodes(NamedTuple):
    """Those that live."""

    live: frozenset[UUID]
    owners: Mapping[int, UUID]
    """By shard."""


async def read_nodes(log: Snapshot) -> Nodes:
    """Who lives, and owns what; to be asked early, before what the snapshot says of leases is long ago."""
    live = f'select node from "{log.schema}".nodes where alive_until > clock_timestamp()'
    owners = f"""select shard, node from "{log.schema}".shards
        where node is not null and lease_until > clock_timestamp()"""
    nodes = frozenset(node for (node,) in await log.session.fetch(live))
    return Nodes(nodes, {shard: node for shard, node in await log.session.fetch(owners) if node in nodes})


async def read_told(log: Snapshot, runs: Sequence[UUID]) -> set[Told]:
    """What lies in the inboxes of ``runs``."""
    statement = f"""select run, detail ->> 'task_id', (detail ->> 'attempt')::integer from "{log.schema}".inbox
        where shard = any(%s) and run = any(%s) and kind = 'attempt'"""
    shards = sorted({*map(shard_of, runs)})
    return {
        (run, task_id, attempt) for run, task_id, attempt in await log.session.fetch(statement, (shards, list(runs)))
    }


def check_assigned(meant: Expected, there: Mapping[str, Row], told: Collection[Told], nodes: Nodes) -> list[Fault]:
    """What is wrong with one run's rows."""
    faults = [fault for task_id, row in there.items() if (fault := _wrong(meant, task_id, row, told))]
    owner = nodes.owners.get(shard_of(meant.run))
    for task_id, (attempt, node) in meant.under_way.items():
        is_elsewhere = owner is not None and node != owner and node in nodes.live
        if is_elsewhere and task_id not in there and (meant.run, task_id, attempt) not in told:
            why = "it is under way there; to rebuild it interrupts it"
            where = {"run": meant.run, "task_id": task_id}
            faults.append(Fault(TABLE, where, None, {"attempt": attempt, "node": node}, why))
    return faults


def is_missing(fault: Fault) -> bool:
    """Whether this is an attempt of which nobody will say what came of it."""
    return fault.table == TABLE and fault.there is None


def _wrong(meant: Expected, task_id: str, row: Row, told: Collection[Told]) -> Fault | None:
    where = {"run": meant.run, "task_id": task_id}
    if (under_way := meant.under_way.get(task_id)) is None:
        return Fault(TABLE, where, row, None, "the task is not under way")
    if under_way != (row["attempt"], row["node"]):
        return Fault(TABLE, where, row, None, f"its attempt {under_way[0]} is under way on node {under_way[1]}")
    if (meant.run, task_id, row["attempt"]) in told:
        return Fault(TABLE, where, row, None, "what came of the attempt is in the inbox")
    return compared(TABLE, where, row, {"shard": shard_of(meant.run), "digest": meant.digest})
