"""The blocks of docs/transactions.md run, each with what stands above it, and do what the page says."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from logs import execute, rows
from sqlalchemy import make_url

PAGE = (Path(__file__).parents[2] / "docs" / "transactions.md").read_text()
BLOCKS = [
    (language, code) for language, code in re.findall(r"^```(python|sql)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
]
FIRST, FASTAPI, SCRIPT, DJANGO = [code for language, code in BLOCKS if language == "python"]
ORDER, TRIGGER, GRANTS = [code for language, code in BLOCKS if language == "sql"]


@pytest.fixture
def url(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a database with a table of the caller's."""
    execute(database_url, "create table orders (number integer primary key, email text not null)")
    driver = make_url(database_url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    monkeypatch.setenv("PERDURE_DATABASE_URL", database_url)
    monkeypatch.setenv("DATABASE_URL", driver)
    yield database_url


def run(*blocks: str) -> dict[str, Any]:
    """The names that the blocks define."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        # FastAPI looks for annotations in the module.
        exec(compile(block, "docs/transactions.md", "exec"), names)
    return names


def outcome(url: str) -> tuple[int, int]:
    """Orders, and the events that say so."""
    found: list[tuple[int, int]] = rows(
        url, "select (select count(*) from orders), (select count(*) from perdure.events where type <> 'x')"
    )
    return found[0]


def test_the_session_of_the_first_block_commits_or_rolls_back_both(url: str) -> None:
    page = run(FIRST)

    async def place() -> None:
        await page["place_order"](17, "ada@example.org")
        with pytest.raises(Exception, match="orders_pkey"):
            await page["place_order"](17, "ada@example.org")
        await page["engine"].dispose()

    asyncio.run(place())
    assert outcome(url) == (1, 1)


def test_a_script_commits_or_rolls_back_both(url: str) -> None:
    place: Callable[..., None] = run(FIRST, SCRIPT)["place_order_in_a_script"]
    place(url, 17, "ada@example.org")
    with pytest.raises(psycopg.errors.UniqueViolation):
        place(url, 17, "ada@example.org")
    assert outcome(url) == (1, 1)


def test_fastapi_commits_or_rolls_back_both(url: str) -> None:
    pytest.importorskip("fastapi", reason="FastAPI is not installed: its recipe is not tried here")
    import httpx

    page = run(FIRST, FASTAPI)

    async def use() -> None:
        async with page["app"] as app:
            await app.register(
                {"workflow_id": "fulfilment", "tasks": [{"task_id": "pack", "type": "pack", "triggers": []}]},
                allow_unknown_types=True,
            )
            transport = httpx.ASGITransport(page["api"], raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                for number in (200, 500):
                    answer = await client.post("/orders/17", params={"email": "ada@example.org"})
                    assert answer.status_code == number
        await page["engine"].dispose()

    asyncio.run(use())
    assert rows(url, "select (select count(*) from orders), (select count(*) from perdure.open_runs)") == [(1, 1)]


def test_django_commits_or_rolls_back_both(url: str) -> None:
    pytest.importorskip("django", reason="Django is not installed: its recipe is not tried here")
    django, database = pytest.importorskip("django"), pytest.importorskip("django.db")
    settings = pytest.importorskip("django.conf").settings
    parsed = make_url(url)
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": parsed.database,
                "USER": parsed.username,
                "HOST": parsed.query.get("host", parsed.host or ""),
                "PORT": parsed.query.get("port", parsed.port or ""),
            }
        }
    )
    django.setup()
    place: Callable[..., None] = run(FIRST, SCRIPT, DJANGO)["place_order_in_a_view"]
    place(17, "ada@example.org")
    with pytest.raises(database.IntegrityError):
        place(17, "ada@example.org")
    database.connection.close()
    assert outcome(url) == (1, 1)


def test_plain_sql_and_a_trigger_publish(url: str) -> None:
    execute(url, ORDER)
    assert outcome(url) == (1, 1)
    execute(url, TRIGGER, "insert into orders values (18, 'bob@example.org')")
    (payload,) = rows(url, "select payload from perdure.events order by position desc limit 1")[0]
    assert payload == b'{"payload":{"number":18,"email":"bob@example.org"}}'


def test_the_rights_of_a_role_suffice_for_what_the_page_says(url: str) -> None:
    role = f"shop_{uuid4().hex[:12]}"
    execute(url, f"create role {role}")
    try:
        execute(url, re.sub(r"\bshop\b", role, GRANTS), f"grant all on orders to {role}")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"set role {role}".encode())
            for statement in filter(str.strip, ORDER.split(";")):
                connection.execute(statement.encode())
            connection.execute("select perdure.start('fulfilment', run => gen_random_uuid())")
    finally:
        execute(url, f"drop owned by {role}", f"drop role {role}")
    assert outcome(url) == (1, 2)
