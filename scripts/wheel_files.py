"""Compares a wheel with the folders it is built from: nothing may be missing, and nothing else in it."""

import subprocess
import sys
import zipfile
from pathlib import Path

# Where the folders of the repository lie in the wheel.
PLACES = {
    "perdure/": "perdure/",
    "eventstore/perdure_eventstore/": "perdure_eventstore/",
    "engine/perdure_engine/": "perdure_engine/",
    "projections/perdure_projections/": "perdure_projections/",
    "migrations/": "perdure/migrations/",
    "examples/": "perdure/examples/",
}


def expected() -> set[str]:
    """The files of the repository, by their names in the wheel."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], capture_output=True
    )
    if listed.returncode == 0:
        files = [name for name in listed.stdout.decode().split("\0") if Path(name).is_file()]
    else:
        # An unpacked sdist is no repository.
        files = [str(path) for path in Path().rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {
        place + name.removeprefix(folder)
        for name in files
        for folder, place in PLACES.items()
        if name.startswith(folder)
    }  # fmt: skip


def main() -> None:
    wheel = sys.argv[1]
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = expected()
    for name in sorted(wanted ^ found):
        print(f"{name} is {'missing from' if name in wanted else 'a stranger in'} the wheel", file=sys.stderr)
    if wanted != found:
        sys.exit(1)
    print(f"the wheel holds all {len(found)} files")


if __name__ == "__main__":
    main()
