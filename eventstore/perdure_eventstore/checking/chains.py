"""The check of chains, a page of the log at a time: does each event hash to what was recorded, after the one before it?

The heads of the streams met last are remembered; those of others are looked up, all of a page in one query.
"""

import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from perdure_eventstore.checking.archived import ARCHIVED
from perdure_eventstore.checking.faults import (
    HASH_WRONG,
    NO_VALUE,
    PAYLOAD_CHANGED,
    PAYLOAD_GIVEN,
    SALT_MISSING,
    Fault,
    missing_before,
)
from perdure_eventstore.checking.payloads import PayloadCheck
from perdure_eventstore.checking.rows import (
    DATA,
    DIGEST,
    HASH,
    ID,
    METADATA,
    POSITION,
    RECORDED_AT,
    SCHEMA,
    STREAM,
    TYPE,
    VERSION,
)
from perdure_eventstore.clock import POSTGRES_EPOCH
from perdure_eventstore.hashing import event_hash
from perdure_eventstore.session import Session

REMEMBERED = 65_536
"""Streams whose heads are remembered; twice as many at most."""

_ARCHIVED: Final = ARCHIVED.encode()


class Found(NamedTuple):
    """A fault, and which row of the page it is about."""

    row: int
    fault: Fault


class ChainCheck:
    """Checks pages of rows (``COLUMNS``); each event must come after the one before it in its stream."""

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        self._payloads = PayloadCheck(session, schema)
        self._young: dict[bytes, tuple[int, bytes]] = {}
        self._old: dict[bytes, tuple[int, bytes]] = {}
        self._lookup = f"""select w.number, e.position, e.hash
            from unnest(%s::integer[], %s::uuid[], %s::integer[]) as w(number, stream, version)
            join "{schema}".events e on e.stream = w.stream and e.version = w.version"""

    async def page(self, rows: Sequence[Any]) -> Found | None:
        """The first fault among ``rows``. Raises LogError."""
        found, unknown, apart = self._read(rows)
        for each in (await self._look_up(rows, unknown), await self._payloads.check(rows, apart)):
            if each is not None and (found is None or each[0] < found.row):
                found = Found(each[0], fault_at(rows[each[0]], each[1]))
        return found

    def forget(self, rows: Sequence[Any]) -> None:
        """As if ``rows`` had not been checked: their streams' heads are looked up again."""
        for row in rows:
            self._young.pop(row[STREAM], None)
            self._old.pop(row[STREAM], None)

    def _read(self, rows: Sequence[Any]) -> tuple[Found | None, list[int], list[int]]:
        """The first fault that the rows alone show; those whose predecessor, and whose payload, is to be looked up."""
        unknown: list[int] = []
        apart: list[int] = []
        young, old, number = self._young, self._old, -1
        reason: str | None = None
        try:
            for number, (
                _, recorded_at, stream, version, schema, id_, type_, data, metadata, payload, salt, digest, hash_
            ) in enumerate(rows):  # fmt: skip
                if payload is None and digest is not None:
                    apart.append(number)
                elif (payload is not None or salt is not None) and (reason := _payload_fault(payload, salt, digest)):
                    break
                known = young.get(stream) or old.get(stream) or (_NONE if version == 1 else None)
                if known is None or known[0] < version - 1 or type_ == _ARCHIVED:
                    unknown.append(number)
                elif known[0] >= version:
                    reason = f"version {known[0]} comes before it"
                    break
                elif hash_ != event_hash(
                    known[1], stream, version, id_, type_, schema,
                    int.from_bytes(recorded_at, signed=True) + POSTGRES_EPOCH, data, metadata, digest,
                ):  # fmt: skip
                    reason = HASH_WRONG
                    break
                young[stream] = (version, hash_)
        except _UNREADABLE:
            reason = NO_VALUE
        if len(young) >= REMEMBERED:
            self._young, self._old = {}, young
        return (Found(number, fault_at(rows[number], reason)) if reason else None), unknown, apart

    async def _look_up(self, rows: Sequence[Any], unknown: Sequence[int]) -> tuple[int, str] | None:
        """Check the rows whose predecessors are in none of the pages remembered."""
        if not unknown:
            return None
        wanted = [rows[number] for number in unknown]
        parameters = (
            list(unknown),
            [UUID(bytes=row[STREAM]) for row in wanted],
            [row[VERSION] - 1 for row in wanted],
        )
        previous = {number: rest for number, *rest in await self._session.fetch(self._lookup, parameters)}
        for number in unknown:
            row = rows[number]
            position, hash_ = previous.get(number, (None, None))
            if row[TYPE] == _ARCHIVED:
                stated = archived_head(row)
                if stated is None or stated != (hash_ or stated):
                    return number, "it does not say how the stream that it archives ended"
                position, hash_ = row[POSITION] - 1, stated
            if position is None:
                return number, missing_before(row[VERSION] - 1)
            if position > row[POSITION]:
                return number, f"version {row[VERSION] - 1} comes after it, at position {position}"
            try:
                if row[HASH] != hash_of(row, hash_):
                    return number, HASH_WRONG
            except _UNREADABLE:
                return number, NO_VALUE
        return None


_NONE: Final = (0, None)
_UNREADABLE: Final = (TypeError, struct.error)


def _payload_fault(payload: bytes | None, salt: bytes | None, digest: bytes | None) -> str | None:
    """What is wrong with a payload that lies beside its event."""
    if payload is None or digest is None:
        return PAYLOAD_GIVEN
    if salt is None:
        return SALT_MISSING
    return None if sha256(salt + payload).digest() == digest else PAYLOAD_CHANGED


def hash_of(row: Any, previous: bytes | None) -> bytes:
    """What a row must hash to after the hash ``previous``."""
    return event_hash(
        previous, row[STREAM], row[VERSION], row[ID], row[TYPE], row[SCHEMA],
        int.from_bytes(row[RECORDED_AT], signed=True) + POSTGRES_EPOCH, row[DATA], row[METADATA], row[DIGEST],
    )  # fmt: skip


def fault_at(row: Any, reason: str) -> Fault:
    """The fault of one row."""
    type_ = None if row[TYPE] is None else row[TYPE].decode()
    return Fault(row[POSITION], UUID(bytes=row[STREAM]), row[VERSION], type_, reason)


def archived_head(row: Any) -> bytes | None:
    """The hash of the last event that was removed before a StreamArchived; None where it says nothing of that kind."""
    try:
        data = orjson.loads(row[DATA])
        return bytes.fromhex(data["head"]) if data["versions"] == row[VERSION] - 1 else None
    except (ValueError, KeyError, TypeError):
        return None
