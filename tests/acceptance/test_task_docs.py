"""The program of docs/tasks.md does what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_pages_program_runs_and_prints_what_it_says(tmp_path: Path, database_url: str) -> None:
    (said,) = re.findall(r"It prints `(.*?)`", PAGE)
    (tmp_path / "main.py").write_text("\n".join(BLOCKS))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, env=plain | {"DATABASE": database_url},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_what_it_links_to_is_there() -> None:
    for path in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", PAGE):
        assert (ROOT / "docs" / path).exists()
