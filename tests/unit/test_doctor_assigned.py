"""Which rows of attempts on other nodes the doctor misses, and which are too many."""

from typing import Any
from uuid import UUID

import pytest

from perdure_engine.doctor.assigned import Nodes, check_assigned, is_missing
from perdure_engine.doctor.expected import Expected
from perdure_engine.identity import shard_of

RUN, OWNER, OTHER, DEAD = (UUID(int=n) for n in range(4))
NODES = Nodes(frozenset({OWNER, OTHER}), {shard_of(RUN): OWNER})
ROW = {"attempt": 2, "node": OTHER, "shard": shard_of(RUN), "digest": "d"}


def faults(node: UUID | None, row: dict[str, Any] | None, nodes: Nodes = NODES, told: int = 0) -> list[str]:
    """Attempt 2 of task b is under way on ``node``; of attempt ``told`` the result is in the inbox."""
    meant = Expected(RUN)
    meant.digest, meant.under_way = "d", {} if node is None else {"b": (2, node)}
    found = check_assigned(meant, {} if row is None else {"b": row}, {(RUN, "b", told)}, nodes)
    assert all(fault.where == {"run": RUN, "task_id": "b"} for fault in found)
    return ["missing" if is_missing(fault) else fault.why or ", ".join(fault.log or ()) for fault in found]


@pytest.mark.parametrize(
    ("node", "nodes", "told", "missing"),
    [
        pytest.param(OTHER, NODES, 0, True, id="nobody will say what comes of it"),
        pytest.param(OTHER, NODES, 1, True, id="what came of the attempt before is known"),
        pytest.param(OTHER, NODES, 2, False, id="what came of it is known"),
        pytest.param(OWNER, NODES, 0, False, id="the owner executes it"),
        pytest.param(DEAD, NODES, 0, False, id="its node died: the owner interrupts it"),
        pytest.param(OTHER, Nodes(NODES.live, {}), 0, False, id="no owner: the next interrupts it"),
        pytest.param(OTHER, Nodes(NODES.live, {shard_of(RUN): OTHER}), 0, False, id="the other owns it now"),
        pytest.param(None, NODES, 0, False, id="nothing is under way"),
    ],
)
def test_a_row_is_missed_where_nobody_would_say_what_comes_of_the_attempt(
    node: UUID | None, nodes: Nodes, told: int, missing: bool
) -> None:
    assert faults(node, None, nodes, told) == ["missing"] * missing


@pytest.mark.parametrize(
    ("node", "row", "told", "why"),
    [
        (OTHER, ROW, 0, []),
        (OTHER, ROW, 1, []),
        (OWNER, ROW | {"node": OWNER}, 0, []),
        (OTHER, ROW, 2, ["what came of the attempt is in the inbox"]),
        (None, ROW, 0, ["the task is not under way"]),
        (OWNER, ROW, 0, [f"its attempt 2 is under way on node {OWNER}"]),
        (OTHER, ROW | {"attempt": 1}, 0, [f"its attempt 2 is under way on node {OTHER}"]),
        (OTHER, ROW | {"shard": 63}, 0, ["shard"]),
        (OTHER, ROW | {"digest": "e"}, 0, ["digest"]),
    ],
)
def test_a_row_is_compared_with_the_attempt(node: UUID | None, row: dict[str, Any], told: int, why: list[str]) -> None:
    assert faults(node, row, NODES, told) == why
    # A row of a node that died is its owner's affair.
    assert faults(node, row, Nodes(frozenset(), {}), told) == why
