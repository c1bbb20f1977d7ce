"""Where signed heads are published, outside of the database: a file of the user's, or a command."""

import asyncio
import fcntl
import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from perdure_eventstore.folders import sync_folder
from perdure_eventstore.heads import split_notes

_TAIL = 64 * 1024
_PATIENCE = 60.0
"""Seconds a command may take."""


class PublishingFailed(Exception):
    """A head could not be published. It is signed and kept in the database all the same."""


class Outlet(Protocol):
    """One place to publish heads at."""

    async def publish(self, note: str) -> None:
        """Publish a signed note. Raises PublishingFailed."""

    async def last(self) -> str | None:
        """The note that was published last, where that can be told. Raises PublishingFailed."""


class HeadFile:
    """A file to which notes are appended, an empty line between two; the disk has it when ``publish`` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def publish(self, note: str) -> None:
        """Append ``note``, unless it is the last one there."""
        try:
            await asyncio.to_thread(self._append, note.encode())
        except OSError as error:
            raise PublishingFailed(f"the head could not be written to {self._path}: {error.strerror}") from error

    async def last(self) -> str | None:
        """The last note that was written to its end."""
        try:
            return await asyncio.to_thread(self._read_last)
        except OSError as error:
            raise PublishingFailed(f"{self._path} cannot be read: {error.strerror}") from error

    def _append(self, note: bytes) -> None:
        new = not self._path.exists()
        with self._path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            last, whole, size = _last_note(file)
            if last == note and whole:
                return
            # After what was torn by a power cut, another newline: it is no head, and must not spoil the next one.
            file.write((b"" if not size else b"\n" if whole else b"\n\n") + note)
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(self._path.parent)

    def _read_last(self) -> str | None:
        if not self._path.exists():
            return None
        with self._path.open("rb") as file:
            last, *_ = _last_note(file)
        return last.decode() if last else None


class HeadCommand:
    """A shell command that gets the note on its standard input. A status other than 0 says that it failed."""

    def __init__(self, command: str) -> None:
        self._command = command

    async def publish(self, note: str) -> None:
        """Run the command. It is killed, with all it started, after a minute."""
        # A file and no pipe: who ends before it has read everything is no fault, to no event loop.
        try:
            with tempfile.TemporaryFile() as input_:
                input_.write(note.encode())
                input_.seek(0)
                process = await asyncio.create_subprocess_shell(
                    self._command,
                    stdin=input_,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,
                )
        except OSError as error:
            raise PublishingFailed(
                f"the command that publishes heads, {self._command!r}, could not be started: {error}"
            ) from error
        try:
            async with asyncio.timeout(_PATIENCE):
                _, errors = await process.communicate()
        except TimeoutError:
            raise PublishingFailed(
                f"the command that publishes heads, {self._command!r}, was not done within {_PATIENCE:g} s"
            ) from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            said = errors.decode(errors="replace").strip()[-500:]
            raise PublishingFailed(
                f"the command that publishes heads, {self._command!r}, ended with status {process.returncode}"
                + (f": {said}" if said else "")
            )

    async def last(self) -> str | None:
        """Nobody can tell."""
        return None


def _last_note(file: IO[bytes]) -> tuple[bytes | None, bool, int]:
    """The last note, whether the file ends with it, and the size of the file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL).decode(errors="replace")
    notes = list(split_notes(tail))
    return (notes[-1].encode(), tail.endswith(notes[-1]), size) if notes else (None, False, size)
