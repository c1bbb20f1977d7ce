"""The README's Python is one program, and it does what the README says. Its files and folders exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

CHECK = """
heard, ordered = asyncio.Event(), asyncio.Event()


@app.on("order_placed")
def note(event):
    print("ordered:", event.payload["number"])
    ordered.set()


@app.on("user_registered")
def hear(event):
    if event.payload["user_email"] == "eve@example.org":
        heard.set()


async def check() -> None:
    async with app.node():
        async with app.database.begin() as connection:
            await connection.execute(text("create table accounts (account text primary key, balance integer)"))
            await connection.execute(text("insert into accounts values ('ada', 40)"))
        tasks = [
            {"task_id": "charge", "type": "charge", "triggers": [], "inputs": {"card": "x", "amount": "{{amount}}"}},
            {"task_id": "book", "type": "book", "depends_on": ["charge"],
             "inputs": {"account": "ada", "amount": "{{amount}}"}},
        ]
        await app.register({"workflow_id": "payment", "tasks": tasks})
        run = await app.start("payment", {"amount": 2})
        print("paid:", (await run.result(timeout=10))["book"])
        refused = await app.start("payment", {"amount": 0})
        try:
            await refused.result(timeout=10)
        except perdure.RunFailed as error:
            print("refused:", error)
        async with app.database.begin() as connection:
            await connection.execute(text("create table orders (number integer)"))
        await place_order(17)
        await app.publish("user_registered", {"user_email": "eve@example.org", "user_data": {"name": "Eve"}})
        async with asyncio.timeout(10):
            await heard.wait()
            await ordered.wait()

asyncio.run(check())
"""


def run(program: str, folder: Path) -> str:
    """What ``program`` prints; it runs in a process and a folder of its own."""
    (folder / "main.py").write_text(program)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=folder, env=plain, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_embedding_example_runs(tmp_path: Path) -> None:
    output = run(BLOCKS[0], tmp_path)
    assert "{'greet': {'to': 'ada@example.org', 'text': 'Welcome, Ada!'}, 'create_user_profile': {" in output


def test_the_recipes_run_after_it(tmp_path: Path) -> None:
    output = run("\n".join([*BLOCKS, CHECK]), tmp_path)
    assert "published: " in output
    assert "paid: {'balance': 42}" in output
    assert "an amount of 0 cannot be charged" in output
    assert "registered: eve@example.org" in output
    assert "task_completed" in output
    assert "ordered: 17" in output


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w./-]+)\)", README))))
def test_what_it_links_to_is_there(path: str) -> None:
    assert (ROOT / path).exists()
