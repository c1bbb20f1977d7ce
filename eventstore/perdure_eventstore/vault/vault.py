"""Payloads of appends sealed before they are packed, and those of recorded events unsealed after they are read."""

import os
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.structs import replace

from perdure_eventstore.append import Append, Entry, Together
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.vault.envelope import seal, unseal
from perdure_eventstore.vault.errors import VaultError
from perdure_eventstore.vault.frame import is_frame, place
from perdure_eventstore.vault.master import KEY_BYTES, MasterKeys
from perdure_eventstore.vault.stores import KeyStore

REMEMBERED: Final = 10_000
"""Keys a process keeps in memory: it asks the store once for a run it works on."""

_PAGE: Final = 1_000
_NO_VERSION: Final = 0
"""Of what is no event: versions begin with 1."""

Cipher = AESGCM | VaultError | None
"""A stream's: None where its key was destroyed, an error where it cannot be had."""


class Vault:
    """A random key a stream, wrapped by a master key, kept in a store."""

    def __init__(self, masters: MasterKeys, store: KeyStore) -> None:
        self._masters, self._store = masters, store
        self._ciphers: OrderedDict[UUID, AESGCM] = OrderedDict()

    async def seal(self, entries: Sequence[Entry]) -> list[Entry | VaultError]:
        """The entries with their payloads encrypted; an error in the place of one that cannot be.

        Keys are drawn for streams that have none. Raises LogUnavailable while the key store cannot be reached.
        """
        appends = [
            append for entry in entries for append in (entry.appends if isinstance(entry, Together) else [entry])
        ]
        private = [append for append in appends if _is_private(append)]
        if not private:
            return list(entries)
        new = {append.stream for append in private if append.expected.version == 0}
        ciphers = await self._have([append.stream for append in private], new)
        return [_sealed(entry, ciphers) for entry in entries]

    async def seal_state(self, stream: UUID, text: bytes) -> bytes:
        """``text``, which shows what is in the payloads of ``stream``, under the same key. Raises VaultError."""
        cipher = _usable(stream, (await self._have([stream], ()))[stream])
        return seal(cipher, stream, _NO_VERSION, text)

    async def unseal_state(self, stream: UUID, frame: bytes) -> bytes:
        """What ``seal_state`` sealed. Raises VaultError."""
        cipher = _usable(stream, (await self._get([stream])).get(stream))
        return unseal(cipher, stream, _NO_VERSION, frame)

    async def open(self, events: list[RecordedEvent]) -> list[RecordedEvent]:
        """The events with their payloads decrypted; a payload whose key was destroyed is None.

        Raises VaultError, LogUnavailable.
        """
        streams = {event.stream for event in events if is_frame(event.payload)}
        if not streams:
            return events
        ciphers = await self._get(streams)
        return [_opened(event, ciphers) if is_frame(event.payload) else event for event in events]

    async def destroy(self, streams: Collection[UUID]) -> None:
        """Destroy the keys of ``streams``: what they encrypted reads as erased from now on, wherever a copy lies."""
        await self._store.destroy(streams)
        for stream in streams:
            self._ciphers.pop(stream, None)

    async def rotate(self) -> int:
        """Wrap every key with the newest master key; returns how many needed it. Raises VaultError."""
        self._masters.read()
        rewrapped, after = 0, None
        while keys := await self._store.page(after, _PAGE):
            after = keys[-1][0]
            old = {stream: wrapped for stream, wrapped in keys if not self._masters.is_newest(wrapped)}
            if old:
                rewrapped += await self._store.replace(
                    {stream: (wrapped, self._rewrap(stream, wrapped)) for stream, wrapped in old.items()}
                )
        return rewrapped

    async def check(self) -> None:
        """Raise VaultError where the master keys are not those of the store; LogUnavailable where it cannot be used."""
        for stream, wrapped in await self._store.page(None, 1):
            self._masters.unwrap(stream, wrapped)

    async def close(self) -> None:
        """Give up the store's connection, if it has one."""
        await self._store.close()

    def _rewrap(self, stream: UUID, wrapped: bytes) -> bytes:
        return self._masters.wrap(stream, self._masters.unwrap(stream, wrapped))

    async def _have(self, streams: Iterable[UUID], new: Collection[UUID]) -> dict[UUID, Cipher]:
        """A cipher for each: those of ``new`` streams are drawn without asking first."""
        ciphers = self._known(streams)
        unknown = [stream for stream in streams if stream not in ciphers]
        if asked := [stream for stream in unknown if stream not in new]:
            ciphers |= await self._get(asked)
        if drawn := sorted({stream for stream in unknown if stream not in ciphers}):
            keys = {stream: self._masters.wrap(stream, os.urandom(KEY_BYTES)) for stream in drawn}
            ciphers |= self._unwrapped(await self._store.create(keys))
        return ciphers

    async def _get(self, streams: Iterable[UUID]) -> dict[UUID, Cipher]:
        ciphers = self._known(streams)
        if unknown := [stream for stream in streams if stream not in ciphers]:
            ciphers |= self._unwrapped(await self._store.get(unknown))
        return ciphers

    def _known(self, streams: Iterable[UUID]) -> dict[UUID, Cipher]:
        ciphers: dict[UUID, Cipher] = {}
        for stream in streams:
            if (cipher := self._ciphers.get(stream)) is not None:
                self._ciphers.move_to_end(stream)
                ciphers[stream] = cipher
        return ciphers

    def _unwrapped(self, wrapped: dict[UUID, bytes | None]) -> dict[UUID, Cipher]:
        ciphers: dict[UUID, Cipher] = {}
        for stream, key in wrapped.items():
            try:
                ciphers[stream] = None if key is None else self._remember(stream, self._masters.unwrap(stream, key))
            except VaultError as error:
                ciphers[stream] = error
        return ciphers

    def _remember(self, stream: UUID, key: bytes) -> AESGCM:
        cipher = self._ciphers[stream] = AESGCM(key)
        if len(self._ciphers) > REMEMBERED:
            self._ciphers.popitem(last=False)
        return cipher


def _is_private(append: Append) -> bool:
    return not append.in_the_clear and any(event.payload is not None for event in append.events)


def _usable(stream: UUID, cipher: Cipher) -> AESGCM:
    if isinstance(cipher, VaultError):
        raise cipher
    if cipher is None:
        raise VaultError(f"stream {stream} was erased and its key destroyed: it takes no more payloads")
    return cipher


def _sealed(entry: Entry, ciphers: dict[UUID, Cipher]) -> Entry | VaultError:
    try:
        if isinstance(entry, Together):
            return replace(entry, appends=tuple(_sealed_append(append, ciphers) for append in entry.appends))
        return _sealed_append(entry, ciphers)
    except VaultError as error:
        return error


def _sealed_append(append: Append, ciphers: dict[UUID, Cipher]) -> Append:
    if not _is_private(append):
        return append
    cipher = _usable(append.stream, ciphers[append.stream])
    first = append.expected.version + 1
    return replace(
        append,
        events=[
            event if event.payload is None
            else replace(event, payload=seal(cipher, append.stream, version, event.payload))
            for version, event in enumerate(append.events, first)
        ],
    )  # fmt: skip


def _opened(event: RecordedEvent, ciphers: dict[UUID, Cipher]) -> RecordedEvent:
    frame = event.payload
    assert frame is not None
    if event.stream not in ciphers:
        raise VaultError(f"{place(event.stream, event.version)} is encrypted, and the key store has no key for it")
    cipher = ciphers[event.stream]
    if isinstance(cipher, VaultError):
        raise cipher
    return event._replace(payload=None if cipher is None else unseal(cipher, event.stream, event.version, frame))
