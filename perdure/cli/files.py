"""Files that exports go to and come from: ``-`` is standard output or input, ``.gz`` means gzip."""

import gzip
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from perdure.cli.exits import WrongUse
from perdure_eventstore.folders import sync_folder

_GZIP = b"\x1f\x8b"
_BUFFER = 1024 * 1024


@contextmanager
def written(name: str) -> Iterator[BinaryIO]:
    """A file to write. It bears its name once it is whole and on the disk; one that fails leaves what was there.

    Raises WrongUse.
    """
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        # A pipe or a device, such as /dev/stdout: there is nothing to be renamed.
        with _opened(name, path, "wb") as file:
            yield file
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with _opened(name, part, "xb") as plain:
            if path.suffix == ".gz":
                with gzip.GzipFile(path.stem, "wb", compresslevel=6, fileobj=plain) as packed:
                    yield cast(BinaryIO, packed)
            else:
                yield plain
            plain.flush()
            os.fsync(plain.fileno())
        part.replace(path)
        sync_folder(path.absolute().parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def read(name: str) -> Iterator[BinaryIO]:
    """A file to read, uncompressed. What does not lie on a disk is first put there: it may be slow. Raises WrongUse."""
    with _given(name) as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=file, mode="rb") as plain:
                yield cast(BinaryIO, plain)
        else:
            yield file


@contextmanager
def _given(name: str) -> Iterator[BinaryIO]:
    path = Path(name)
    if name != "-" and path.is_file():
        with _opened(name, path, "rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as spooled:
        if name == "-":
            _copy(sys.stdin.buffer, spooled)
        else:
            with _opened(name, path, "rb") as file:
                _copy(file, spooled)
        spooled.seek(0)
        yield cast(BinaryIO, spooled)


def _copy(source: BinaryIO, target: "tempfile._TemporaryFileWrapper[bytes] | BinaryIO") -> None:
    while block := source.read(_BUFFER):
        target.write(block)


def _opened(name: str, path: Path, mode: str) -> BinaryIO:
    try:
        return cast(BinaryIO, path.open(mode))
    except (OSError, ValueError) as error:
        doing = "read" if mode == "rb" else "written"
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise WrongUse(f"{name} cannot be {doing}: {why}") from error
