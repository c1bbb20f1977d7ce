"""Master keys: they wrap the keys of the streams, and lie in a file outside of the database.

The file has a key a line, 32 random bytes in base64. The last one is the newest and wraps; all of them unwrap. A line
that is empty or begins with # says nothing.
"""

import base64
import binascii
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from perdure_eventstore.folders import sync_folder
from perdure_eventstore.vault.errors import VaultError

KEY_BYTES: Final = 32
_ID: Final = 8
_NONCE: Final = 12
_PURPOSE: Final = b"perdure.key.v1"


class MasterKeys:
    """The master keys of one file. A wrapped key is the master's id (8 bytes), a nonce (12), and AES-256-GCM's."""

    def __init__(self, file: Path) -> None:
        """Raises VaultError where the file is missing, open to others, or holds no key."""
        self.file = file
        self._keys: dict[bytes, AESGCM] = {}
        self.newest = b""
        """The id of the key that wraps: the beginning of its SHA-256."""
        self.read()

    def read(self) -> None:
        """Read the file (again). Raises VaultError."""
        keys = list(_read(self.file))
        if not keys:
            raise VaultError(f"{self.file} holds no master key: make one with `perdure keys new FILE`")
        self._keys = {key_id(key): AESGCM(key) for key in keys}
        self.newest = key_id(keys[-1])

    def wrap(self, stream: UUID, key: bytes) -> bytes:
        """``key`` of ``stream``, wrapped with the newest master key."""
        nonce = os.urandom(_NONCE)
        return self.newest + nonce + self._keys[self.newest].encrypt(nonce, key, _PURPOSE + stream.bytes)

    def unwrap(self, stream: UUID, wrapped: bytes) -> bytes:
        """The key of ``stream``. Reads the file again for a master key not met before. Raises VaultError."""
        id_ = wrapped[:_ID]
        if id_ not in self._keys:
            self.read()
        if (master := self._keys.get(id_)) is None:
            raise VaultError(
                f"the key of stream {stream} is wrapped with master key {id_.hex()}, which is not in {self.file}"
            )
        try:
            return master.decrypt(wrapped[_ID : _ID + _NONCE], wrapped[_ID + _NONCE :], _PURPOSE + stream.bytes)
        except InvalidTag:
            raise VaultError(
                f"the key of stream {stream} in the key store was changed: it cannot be unwrapped"
            ) from None

    def is_newest(self, wrapped: bytes) -> bool:
        """Whether a key needs no rewrapping."""
        return wrapped[:_ID] == self.newest


def key_id(key: bytes) -> bytes:
    """By what a master key is known. It does not give the key away."""
    return sha256(key).digest()[:_ID]


def new_master_key(file: Path, *, add: bool = False) -> bytes:
    """Make ``file`` with a new master key, or ``add`` one to it as the newest. Returns its id.

    Raises VaultError where the file is there already (or, to ``add``, is not one of master keys); OSError.
    """
    key, kept = os.urandom(KEY_BYTES), b""
    if add:
        MasterKeys(file)
        kept = file.read_bytes().rstrip() + b"\n"
    elif file.exists():
        raise VaultError(f"{file} is there already: give another name, or --add to put a newer key into it")
    text = kept + base64.b64encode(key) + b"\n"
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as writing:
            writing.write(text)
            writing.flush()
            os.fsync(writing.fileno())
        # A link refuses a file that came meanwhile; a newer key takes the old file's place at once.
        if add:
            fresh.rename(file)
        else:
            os.link(fresh, file)
        sync_folder(file.parent)
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()
    return key_id(key)


def _read(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as reading:
            mode = os.fstat(reading.fileno()).st_mode
            lines = reading.read().splitlines()
    except OSError as error:
        raise VaultError(f"the master key {file} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise VaultError(f"the master key {file} is open to others: chmod 600 {file}")
    for number, line in enumerate(lines, 1):
        if not (text := line.strip()) or text.startswith(b"#"):
            continue
        try:
            key = base64.b64decode(text, validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise VaultError(f"{file}, line {number}: a master key is {KEY_BYTES} bytes in base64")
        yield key
