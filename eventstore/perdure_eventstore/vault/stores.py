"""Where the keys of the streams are kept, each wrapped with a master key."""

from collections.abc import Iterable, Mapping
from typing import Protocol
from uuid import UUID


class KeyStore(Protocol):
    """Keeps wrapped keys, for several processes at once. What a method did is on the disk when it returns.

    Any method raises LogUnavailable while the store cannot be reached, and VaultError where it never will.
    """

    async def get(self, streams: Iterable[UUID]) -> dict[UUID, bytes | None]:
        """The wrapped keys. None: it was destroyed. A stream that never had one is left out."""

    async def create(self, wrapped: Mapping[UUID, bytes]) -> dict[UUID, bytes | None]:
        """Keep keys for streams that have none, and return what stands for each: the first to come wins."""

    async def destroy(self, streams: Iterable[UUID]) -> None:
        """Make the keys of these streams irrecoverable, and let them have none ever after. Again is no-op."""

    async def page(self, after: UUID | None, limit: int) -> list[tuple[UUID, bytes]]:
        """The first ``limit`` keys that are not destroyed, of streams after ``after``, in their order."""

    async def replace(self, rewrapped: Mapping[UUID, tuple[bytes, bytes]]) -> int:
        """Put the second in the place of the first, where that still stands. Returns how many were replaced."""

    async def close(self) -> None:
        """Give up what it holds; the next use takes it again."""
