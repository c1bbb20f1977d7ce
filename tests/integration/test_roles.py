"""A node runs as a role that can append to the log, and cannot write to it in any other way."""

from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest
from applications import new_app
from logs import opened, rows, superuser
from psycopg import errors
from sqlalchemy import make_url

from perdure.roles import grant_node
from perdure_eventstore.errors import LogError

pytestmark = pytest.mark.every_postgres

DEFINITION = {
    "workflow_id": "greeting",
    "tasks": [{"task_id": "greet", "type": "greet", "triggers": ["arrived"], "inputs": {"name": "{{name}}"}}],
}


@pytest.fixture
async def as_node(database_url: str) -> AsyncIterator[str]:
    """The database's URL for a role of few rights."""
    role = f"node_{uuid4().hex}"
    with superuser(database_url) as owner:
        owner.execute(f"create role {role} login".encode())
        async with opened(database_url) as engine:
            await grant_node(engine, "perdure", role)
            await grant_node(engine, "perdure", role)
        limited = make_url(database_url).update_query_dict({"options": f"-crole={role}"})
        yield limited.render_as_string(hide_password=False)
        owner.execute(f"drop owned by {role} cascade".encode())
        owner.execute(f"drop role {role}".encode())


async def test_a_node_works_under_a_role_of_few_rights(as_node: str) -> None:
    app = new_app(as_node)

    @app.task("greet")
    async def greet(name: str) -> str:
        return f"hello {name}"

    async with app.node():
        await app.register(DEFINITION)
        (run,) = await (await app.publish("arrived", {"name": "Ada"})).runs()
        assert await run.result(timeout=30) == {"greet": "hello Ada"}
    assert rows(as_node, "select current_user <> session_user") == [(True,)]


@pytest.mark.parametrize(
    "statement",
    [
        "insert into perdure.events (recorded_at, stream, version, schema_version, id, type, data, metadata, hash)"
        " values (now(), gen_random_uuid(), 1, 1, gen_random_uuid(), 'Forged', '{}', '{}', '')",
        "insert into perdure.payloads (stream, version, payload) values (gen_random_uuid(), 1, '')",
        "update perdure.events set type = 'Forged'",
        "delete from perdure.events",
        "truncate perdure.events",
        "alter table perdure.events disable trigger all",
        "select setval('perdure.events_position_seq', 1)",
        "update perdure.alembic_version set version_num = '0'",
        "select perdure.erase_payloads(gen_random_uuid(), 1, '', '')",
        "select perdure.remove_archived('{}', '{}', '{}', '', '')",
    ],
)
def test_what_is_not_an_append_is_refused_to_it(as_node: str, statement: str) -> None:
    with psycopg.connect(as_node) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement.encode())


async def test_a_role_that_is_not_there_is_named(database_url: str) -> None:
    async with opened(database_url) as engine:
        with pytest.raises(LogError, match="there is no role 'nobody_here'; create it first"):
            await grant_node(engine, "perdure", "nobody_here")
