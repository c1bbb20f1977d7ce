"""Names that are computed, so that everyone who needs one computes the same."""

import os
import time
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID, uuid5

_NAMESPACE = UUID("5f0d9a52-6a3e-5a55-9d3c-6c2f1f0c7a11")

SHARDS = 64
"""Into how many parts runs are divided between nodes."""


def workflow_stream(workflow_id: str) -> UUID:
    """The stream of a workflow's definitions."""
    return uuid5(_NAMESPACE, f"workflow:{workflow_id}")


def run_for_event(event_id: UUID, workflow_id: str) -> UUID:
    """The run that a published event starts of a workflow: the same each time it is asked."""
    return uuid5(event_id, f"run:{workflow_id}")


def schedule_stream(name: str) -> UUID:
    """The stream of a schedule."""
    return uuid5(_NAMESPACE, f"schedule:{name}")


def run_for_time(schedule: UUID, due: datetime) -> UUID:
    """The run that a schedule starts for the time ``due``: the same each time it is asked."""
    return uuid5(schedule, f"due:{due.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")


def start_stream(run: UUID) -> UUID:
    """The stream in which SQL asks for ``run``: a UUID of version 8, as ``start_stream`` in the migrations has it."""
    value = int.from_bytes(sha256(b"perdure-start-v1" + run.bytes).digest()[:16])
    return UUID(int=value & ~(0xF000 << 64) & ~(0xC000 << 48) | 0x8000 << 64 | 0x8000 << 48)


def shard_of(run: UUID) -> int:
    """The shard a run belongs to."""
    return run.bytes[15] % SHARDS


def new_id() -> UUID:
    """A new UUIDv7 (RFC 9562): its first 48 bits are the time in ms, so that new rows lie together."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return UUID(int=value & ~(0xF000 << 64) & ~(0xC000 << 48) | 0x7000 << 64 | 0x8000 << 48)
