"""What can be said of the built-in projections without a database."""

import re
from typing import get_args
from uuid import UUID

import pytest

from perdure_engine.run import events as e
from perdure_eventstore.keeper import ERASED
from perdure_projections import runs, tables, tasks
from perdure_projections.builtin import BUILTIN
from perdure_projections.projection import sql_names
from perdure_projections.queries import ProjectionRow, RunRow, TaskRow, uuid_range

EVENT_TYPES = {kind.__name__ for kind in get_args(e.RunEvent)} | {ERASED}


@pytest.mark.parametrize("statement", [runs.STATEMENT, tasks.STATEMENT])
def test_every_event_type_in_a_fold_exists(statement: str) -> None:
    named = set(re.findall(r"'([A-Z]\w+)'", statement)) - {"UTF8"}
    assert named
    assert named <= EVENT_TYPES


def test_every_event_of_a_task_is_folded() -> None:
    assert {name for name in EVENT_TYPES if name.startswith("Task")} == set(tasks.TYPES)
    assert {*tasks.TYPES, ERASED} == set(tasks.TASKS.types)


def test_names_and_tables_of_the_built_in_projections_are_their_own() -> None:
    assert len({projection.name for projection in BUILTIN}) == len(BUILTIN)
    owned = [table for projection in BUILTIN for table in projection.tables]
    assert len(set(owned)) == len(owned)
    assert {f"perdure.{name}" for name in (*owned, "projections")} == set(tables.metadata.tables)


def test_a_row_has_the_columns_of_its_table() -> None:
    assert RunRow._fields == tuple(tables.runs.c.keys())
    assert TaskRow._fields == tuple(tables.tasks.c.keys())
    assert [name for name in ProjectionRow._fields if name != "behind"] == tables.projections.c.keys()


def test_names_are_quoted_as_sql_literals() -> None:
    assert sql_names(["a", "it's"]) == "'a', 'it''s'"


@pytest.mark.parametrize("prefix", ["019A", "019a0000-0000-7000-8000-00000000000", ""])
def test_a_prefix_spans_the_ids_that_begin_with_it(prefix: str) -> None:
    lowest, highest = uuid_range(prefix)
    assert lowest <= UUID("019a0000-0000-7000-8000-000000000001") <= highest
    assert str(lowest).startswith(prefix.lower())
    assert str(highest).startswith(prefix.lower())


@pytest.mark.parametrize("prefix", ["last", "0" * 33, "01 9a"])
def test_what_no_id_begins_with_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="not the beginning of a run's id"):
        uuid_range(prefix)
