"""Keys in a folder outside of the database: one SQLite file, shared by the processes of a machine."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

from perdure_eventstore.errors import LogUnavailable
from perdure_eventstore.vault.errors import VaultError

T = TypeVar("T")

_WAIT: Final = 10.0
"""Seconds for another process that writes."""
_MOST_NAMED: Final = 500
"""Streams in one statement: SQLite bounds the number of parameters."""

_TABLE = "create table if not exists keys (stream blob primary key, wrapped blob, destroyed integer) without rowid"


class FileKeyStore:
    """See KeyStore. Every use opens the file and syncs what it wrote; what is deleted is overwritten with zeros."""

    def __init__(self, folder: Path) -> None:
        """The folder must be there: one that is misspelt, or not mounted, shall not pass for an empty store."""
        self.file = folder / "keys.sqlite3"

    async def get(self, streams: Iterable[UUID]) -> dict[UUID, bytes | None]:
        names = [stream.bytes for stream in streams]
        return await self._use(lambda keys: _get(keys, names))

    async def create(self, wrapped: Mapping[UUID, bytes]) -> dict[UUID, bytes | None]:
        rows = [(stream.bytes, key) for stream, key in wrapped.items()]

        def create(keys: sqlite3.Connection) -> dict[UUID, bytes | None]:
            keys.executemany("insert into keys (stream, wrapped) values (?, ?) on conflict do nothing", rows)
            return _get(keys, [name for name, _ in rows])

        return await self._use(create)

    async def destroy(self, streams: Iterable[UUID]) -> None:
        rows = [(stream.bytes,) for stream in streams]
        destroy = """insert into keys (stream, destroyed) values (?, 1)
            on conflict do update set wrapped = null, destroyed = 1"""
        await self._use(lambda keys: keys.executemany(destroy, rows))

    async def page(self, after: UUID | None, limit: int) -> list[tuple[UUID, bytes]]:
        select = "select stream, wrapped from keys where wrapped is not null and stream > ? order by stream limit ?"
        first = after.bytes if after else b""
        rows = await self._use(lambda keys: keys.execute(select, (first, limit)).fetchall())
        return [(UUID(bytes=name), key) for name, key in rows]

    async def replace(self, rewrapped: Mapping[UUID, tuple[bytes, bytes]]) -> int:
        rows = [(new, stream.bytes, old) for stream, (old, new) in rewrapped.items()]
        update = "update keys set wrapped = ? where stream = ? and wrapped = ?"
        return await self._use(lambda keys: keys.executemany(update, rows).rowcount)

    async def close(self) -> None:
        """Nothing is held between two uses."""

    async def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._use_now, work)

    def _use_now(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if not self.file.parent.is_dir():
            raise VaultError(f"the folder of the key store is missing: {self.file.parent}")
        try:
            # SQLite gives its journal the mode of its file.
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))
            with closing(sqlite3.connect(self.file, timeout=_WAIT, isolation_level=None)) as keys:
                keys.execute("pragma secure_delete = on")
                keys.execute("pragma synchronous = extra")
                keys.execute("begin immediate")
                keys.execute(_TABLE)
                found = work(keys)
                keys.execute("commit")
                return found
        except sqlite3.OperationalError as error:
            raise LogUnavailable(f"the key store {self.file} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise VaultError(f"the key store {self.file} is damaged: {error}") from error
        except OSError as error:
            raise LogUnavailable(f"the key store {self.file} cannot be used: {error.strerror}") from error


def _get(keys: sqlite3.Connection, names: list[bytes]) -> dict[UUID, bytes | None]:
    found: dict[UUID, bytes | None] = {}
    for first in range(0, len(names), _MOST_NAMED):
        some = names[first : first + _MOST_NAMED]
        rows = keys.execute(f"select stream, wrapped from keys where stream in ({','.join('?' * len(some))})", some)
        found.update((UUID(bytes=name), key) for name, key in rows)
    return found
