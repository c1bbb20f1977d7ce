"""An application with an ``engine.py`` and a folder ``projections`` of its own beside ``main.py`` embeds Perdure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment, perdure

MAIN = """
import asyncio
import sys

import perdure
from engine import greeting
from projections.names import shouted

app = perdure.App()


@app.task("greet")
async def greet(name: str) -> str:
    return greeting(shouted(name))


async def main() -> None:
    async with app.node():
        task = {"task_id": "greet", "type": "greet", "inputs": {"name": "{{name}}"}, "triggers": ["came"]}
        await app.register({"workflow_id": "welcome", "tasks": [task]})
        published = await app.publish("came", {"name": "Ada"})
        run = (await published.runs())[0]
        print((await run.result(timeout=20))["greet"])


if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture
def application(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text(MAIN)
    (tmp_path / "engine.py").write_text("def greeting(name: str) -> str:\n    return f'Hello, {name}'\n")
    (tmp_path / "projections").mkdir()
    (tmp_path / "projections" / "__init__.py").touch()
    (tmp_path / "projections" / "names.py").write_text("def shouted(name: str) -> str:\n    return name.upper()\n")
    return tmp_path


def test_it_runs_by_itself(application: Path, database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=application, env=environment(PERDURE_DATABASE_URL=database_url),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["Hello, ADA"]


@pytest.mark.parametrize("name", ["main", "main:app"])
def test_the_command_line_runs_its_tasks(application: Path, database_url: str, name: str) -> None:
    task = {"task_id": "greet", "type": "greet", "inputs": {"name": "{{name}}"}, "triggers": ["came"]}
    (application / "welcome.json").write_text(json.dumps({"workflow_id": "welcome", "tasks": [task]}))
    given = ("run", "welcome.json", "--event", "came", "--data", '{"name": "Eve"}', "--json", "--app", name)
    answer = perdure(application, *given, "--database", database_url)
    assert answer.status == 0, answer.err
    assert answer.lines[0]["result"] == {"greet": "Hello, EVE"}


def test_pyproject_may_name_it_for_every_folder_below(application: Path, database_url: str) -> None:
    (application / "pyproject.toml").write_text('[tool.perdure]\napp = "main"\n')
    below = application / "below"
    below.mkdir()
    task = {"task_id": "greet", "type": "greet", "inputs": {"nam": "{{name}}"}, "triggers": ["came"]}
    (below / "bad.json").write_text(json.dumps({"workflow_id": "welcome", "tasks": [task]}))
    answer = perdure(below, "validate", "bad.json", "--json", PERDURE_DATABASE_URL=database_url)
    assert answer.status == 1
    assert any("`nam`" in fault["message"] for fault in answer.lines[0]["faults"])


def test_an_application_that_cannot_be_imported_is_named(application: Path) -> None:
    (application / "broken.py").write_text("import nothing_like_it\n")
    answer = perdure(application, "runs", "--app", "broken")
    assert answer.status == 2
    assert "the application broken cannot be imported: ModuleNotFoundError" in answer.err


def test_log_lines_of_a_handler_name_its_attempt(application: Path, database_url: str) -> None:
    handler = '    import logging; logging.getLogger("mine").warning("greeting %s", name)\n'
    main = MAIN.replace("    return greeting(", f"{handler}    return greeting(")
    (application / "main.py").write_text(main)
    task = {"task_id": "greet", "type": "greet", "inputs": {"name": "{{name}}"}, "triggers": ["came"]}
    (application / "welcome.json").write_text(json.dumps({"workflow_id": "welcome", "tasks": [task]}))
    given = ("run", "welcome.json", "--event", "came", "--data", '{"name": "Eve"}', "--json", "--app", "main")
    answer = perdure(application, *given, "--database", database_url)
    (line,) = [json.loads(line) for line in answer.err.splitlines() if line.startswith("{")]
    assert (line["event"], line["logger"], line["level"]) == ("greeting Eve", "mine", "warning")
    assert (line["run"], line["task"], line["attempt"]) == (answer.lines[0]["run_id"], "greet", 1)
