"""Erasing in an archive file: those who do it at the same time take turns, and nothing of one that died stays."""

import fcntl
import gzip
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from perdure_eventstore.archive import files
from perdure_eventstore.archive.files import erase_in, heads, writing
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.hashing import event_hash, payload_digest
from perdure_eventstore.transfer.entry import Entry, microseconds
from perdure_eventstore.transfer.frame import Header, Selection, Tally
from perdure_eventstore.transfer.record import JsonLines

ONE, OTHER = (UUID(int=n, version=4) for n in (1, 2))
HEADER = Header("perdure/5f0d9a52-6a3e-4a55-9d3c-6c2f1f0c7a11", 2, Selection(), datetime.now(UTC), "0.1.0")
_SALT = b"s" * 16


def entry(position: int, stream: UUID) -> Entry:
    """The one event of ``stream``, whose payload is the stream's id."""
    id_, at, payload = uuid4(), HEADER.exported_at, f'"{stream}"'.encode()
    digest = payload_digest(_SALT, payload)
    hash_ = event_hash(None, stream.bytes, 1, id_.bytes, b"Happened", 1, microseconds(at), b"{}", b"{}", digest)
    return Entry(
        RecordedEvent(
            position=position, recorded_at=at, stream=stream, version=1, schema_version=1, id=id_, type="Happened",
            data=b"{}", metadata=b"{}", payload=payload, payload_salt=_SALT, payload_digest=digest, hash=hash_,
        ),
        None,
    )  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A file of two streams, alone in its folder."""
    path, form, tally = tmp_path / "archive.jsonl.gz", JsonLines(), Tally()
    with writing(path) as write:
        lines = [form.header(HEADER), *(form.entry(entry(n, stream)) for n, stream in enumerate((ONE, OTHER), 1))]
        for line in lines:
            tally.take(line)
            write(line)
        for position in (1, 2):
            tally.count(position, 1)
        write(form.trailer(tally.trailer()))
    return path


def payloads(path: Path) -> list[bytes | None]:
    return [each.event.payload for each in files.entries(path)]


def in_the_middle(monkeypatch: pytest.MonkeyPatch, hook: Callable[[], object]) -> None:
    """Call ``hook`` once, after the first erasure has read what it will write."""
    trailer, called = JsonLines.trailer, threading.Event()

    def hooked(self: JsonLines, *arguments: Any) -> bytes:
        if not called.is_set():
            called.set()
            hook()
        return trailer(self, *arguments)

    monkeypatch.setattr(JsonLines, "trailer", hooked)


def test_two_who_erase_in_one_file_at_the_same_time_do_not_undo_each_other(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, arrived = fcntl.flock, threading.Event()
    first = threading.get_ident()

    def watched(*arguments: Any) -> None:
        if threading.get_ident() != first:
            arrived.set()
        flock(*arguments)

    with ThreadPoolExecutor(1) as pool:

        def second_begins() -> None:
            # Until it waits for its turn, or, if it does not, until it is done.
            second.append(pool.submit(erase_in, archive, OTHER))
            second[0].add_done_callback(lambda _: arrived.set())
            arrived.wait()

        second: list[Any] = []
        monkeypatch.setattr(fcntl, "flock", watched)
        in_the_middle(monkeypatch, second_begins)
        assert erase_in(archive, ONE) == 1
        assert second[0].result() == 1
    assert payloads(archive) == [None, None]
    assert set(heads(archive)) == {ONE, OTHER}
    assert list(archive.parent.iterdir()) == [archive]


def test_of_an_erasure_that_was_killed_the_next_leaves_nothing(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        in_the_middle(patch, killed)
        with pytest.raises(KeyboardInterrupt):
            erase_in(archive, ONE)
    assert len(list(archive.parent.iterdir())) == 2
    monkeypatch.setattr("os.getpid", lambda: 1)  # The next is another process.
    assert erase_in(archive, ONE) == 1
    assert list(archive.parent.iterdir()) == [archive]
    assert str(OTHER).encode() in gzip.decompress(archive.read_bytes())
    assert payloads(archive)[0] is None


def test_an_erasure_that_fails_leaves_the_file_as_it_was(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    before = archive.read_bytes()
    in_the_middle(monkeypatch, full)
    with pytest.raises(OSError, match="No space left"):
        erase_in(archive, ONE)
    assert archive.read_bytes() == before
    assert list(archive.parent.iterdir()) == [archive]
