"""The programs of docs/subscriptions.md are one, and it does what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "subscriptions.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

CHECK = """
asyncio.run(divide())


async def see() -> None:
    async with app, app.database.connect() as connection:
        print((await connection.execute(text("select parts from perdure.subscriptions where part = 7"))).all())

asyncio.run(see())
"""


def run(program: str, folder: Path, database_url: str) -> str:
    (folder / "main.py").write_text(program)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=folder, env=plain | {"DATABASE": database_url},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_pages_program_runs_and_does_what_it_says(tmp_path: Path, database_url: str) -> None:
    (said,) = re.findall(r"It prints `(.*?)`", PAGE)
    output = run("\n".join([*BLOCKS, CHECK]), tmp_path, database_url)
    assert said in output
    assert "[(8,)]" in output


def test_what_it_links_to_is_there() -> None:
    for path in re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (ROOT / "docs" / path).exists()
