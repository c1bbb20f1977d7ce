"""docs/privacy.md does what it says: its commands run, in its order, on a run of their own."""

import re
from pathlib import Path

from command_line import Answer, perdure

PAGE = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
EXAMPLE = Path(__file__).parents[2] / "examples" / "user_registration.json"
DATA = '{"user_email": "ada@example.org", "user_data": {"name": "Ada"}}'
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


class Shell:
    """Runs the lines of a block: perdure, export and mkdir is all there is."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._settings = folder, {"PERDURE_DATABASE_URL": f"embedded:{folder / 'database'}"}

    def run(self, line: str) -> Answer | None:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)]
        match words:
            case ["perdure", *arguments]:
                answer = perdure(self._folder, *arguments, **self._settings)
                assert answer.status == 0, (line, answer.err)
                return answer
            case ["export", setting]:
                name, _, value = setting.partition("=")
                self._settings[name] = value
            case ["mkdir", name]:
                (self._folder / name).mkdir()
            case _:
                raise AssertionError(f"the page has a command that no test knows: {line}")
        return None


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    encryption, rotation, erasure, retention = BLOCKS
    for line in encryption.splitlines():
        shell.run(line)
    (tmp_path / "data.json").write_text(DATA)
    shell.run(f"perdure run {EXAMPLE} --event user_registered --data @data.json")
    for block in (rotation, erasure, retention):
        for line in block.splitlines():
            shell.run(line)
    assert "its payloads were erased" in (shell.run("perdure show last") or Answer(1, "", "")).out
    assert (tmp_path / "archive").is_dir()
