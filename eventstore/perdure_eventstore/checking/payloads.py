"""The check of payloads that do not lie beside their event: the large ones, and those that were erased."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from perdure_eventstore.checking.faults import NOT_ERASED, PAYLOAD_CHANGED, SALT_MISSING, TEXT_MISSING
from perdure_eventstore.checking.rows import DIGEST, SALT, STREAM, VERSION
from perdure_eventstore.session import Session

ERASED: Final = "PayloadsErased"
"""The type of the event that erasure leaves in a stream, after the events whose payloads it erased."""

_SLICE = 16 * 1024 * 1024
"""Bytes of a payload read at once, however large it is."""
_REMEMBERED = 10_000


class PayloadCheck:
    """Checks rows of a page that have a digest and no payload beside them."""

    def __init__(self, session: Session, schema: str) -> None:
        self._session = session
        self._erasures: dict[bytes, int] = {}
        self._sizes = f"""select w.number, octet_length(p.payload)
            from unnest(%s::integer[], %s::uuid[], %s::integer[]) as w(number, stream, version)
            join "{schema}".payloads p on p.stream = w.stream and p.version = w.version"""
        self._slice = f"""select substring(payload from %s for %s) from "{schema}".payloads
            where stream = %s and version = %s"""
        self._erased = f"""select uuid_send(stream), max(version) from "{schema}".events
            where stream = any(%s) and type = '{ERASED}' group by stream"""

    async def check(self, rows: Sequence[Any], numbers: Sequence[int]) -> tuple[int, str] | None:
        """The first of ``numbers`` (places in ``rows``) whose payload is not right, and why. Raises LogError."""
        if not numbers:
            return None
        wanted = [rows[number] for number in numbers]
        streams = [UUID(bytes=row[STREAM]) for row in wanted]
        versions = [row[VERSION] for row in wanted]
        sizes = dict(await self._session.fetch(self._sizes, (list(numbers), streams, versions)))
        await self._learn_erasures([row for number, row in zip(numbers, wanted, strict=True) if number not in sizes])
        for number, row in zip(numbers, wanted, strict=True):
            size, salt = sizes.get(number), row[SALT]
            reason = None
            if size is None:
                if salt is not None:
                    reason = TEXT_MISSING
                elif self._erasures.get(row[STREAM], 0) <= row[VERSION]:
                    reason = NOT_ERASED
            elif salt is None:
                reason = SALT_MISSING
            elif await self._digest(UUID(bytes=row[STREAM]), row[VERSION], size, salt) != row[DIGEST]:
                reason = PAYLOAD_CHANGED
            if reason:
                return number, reason
        return None

    async def _digest(self, stream: UUID, version: int, size: int, salt: bytes) -> bytes:
        digest = sha256(salt)
        for begin in range(1, size + 1, _SLICE):
            rows = await self._session.fetch(self._slice, (begin, _SLICE, stream, version))
            digest.update(rows[0][0] if rows else b"")
        return digest.digest()

    async def _learn_erasures(self, rows: Sequence[Any]) -> None:
        """Find where the streams of ``rows``, which lack their payloads, were last erased."""
        if len(self._erasures) > _REMEMBERED:
            self._erasures.clear()
        # What is remembered may be older than an erasure that took place since.
        if ask := {row[STREAM] for row in rows if self._erasures.get(row[STREAM], 0) <= row[VERSION]}:
            self._erasures.update(await self._session.fetch(self._erased, ([UUID(bytes=stream) for stream in ask],)))
