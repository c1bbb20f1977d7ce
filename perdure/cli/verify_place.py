"""The file in which a check keeps its place."""

import os
import time
from pathlib import Path

import msgspec

from perdure.cli.exits import WrongUse
from perdure_eventstore.verify import Place

_EVERY = 2.0
"""Seconds between two writes."""
_MOST_BYTES = 1_000_000
"""Far more than a place: what is longer is another file, or a device."""


class PlaceFile:
    """A place on the disk, written atomically: whoever is killed goes on from the one before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place: Place | None = None
        self._written = time.monotonic()

    def read(self) -> Place | None:
        """The place in the file; None where there is no file yet. Raises WrongUse."""
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(_MOST_BYTES), type=Place)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise WrongUse(f"{self._path} cannot be read: {error.strerror}") from error
        except msgspec.DecodeError as error:
            raise WrongUse(f"{self._path} is not the place of a check: {error}") from error

    def at(self, place: Place) -> None:
        """Remember ``place``, and write it every two seconds."""
        self._place = place
        if time.monotonic() - self._written >= _EVERY:
            self.write()

    def write(self) -> None:
        """Write the place remembered last."""
        if self._place is None:
            return
        # Always the same name: what a killed check leaves of it, the next one takes away.
        beside = self._path.with_name(f"{self._path.name}.part")
        try:
            with beside.open("wb") as file:
                file.write(msgspec.json.encode(self._place))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            raise WrongUse(f"the place cannot be kept in {self._path}: {error.strerror}") from error
        self._place, self._written = None, time.monotonic()
