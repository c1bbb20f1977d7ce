"""Everything a database holds, as pg_dump writes it, to search in."""

import re
import subprocess

from perdure.embedded.binaries import find_binaries


def found_in(url: str, marker: str) -> list[str]:
    """The tables in which ``marker`` stands in the clear, as text or within a bytea."""
    dump = subprocess.run(
        [find_binaries() / "pg_dump", "--data-only", url], capture_output=True, check=True, timeout=60
    ).stdout.decode()
    tables = re.findall(r"^COPY (\S+) .*?$(.*?)^\\\.$", dump, re.MULTILINE | re.DOTALL)
    assert tables
    return [name for name, content in tables if marker in content or marker.encode().hex() in content]
