"""A bundle proves with no database that a run is in the log whose head was signed; a changed one is refused."""

import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from logs import new_stream, opened, rows, running, tamper
from sqlalchemy.ext.asyncio import AsyncEngine
from transfers import another_log, url_of

from perdure_eventstore.append import Append
from perdure_eventstore.events import NO_STREAM, NewEvent
from perdure_eventstore.head_keeper import HeadKeeper
from perdure_eventstore.heads import verifier_key
from perdure_eventstore.transfer.bundle_check import CheckedBundle, check_bundle
from perdure_eventstore.transfer.bundling import Bundled, Bundler, NothingToProve
from perdure_eventstore.transfer.entry import TransferRefused

pytestmark = pytest.mark.every_postgres

RUN = UUID(int=7, version=4)
KEY, OTHER_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()

Line = dict[str, Any]


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A log in which the run's events lie between 600 others: over two chunks of the tree."""
    async with opened(database_url) as engine:
        await fill(engine)
        yield engine


async def fill(engine: AsyncEngine) -> None:
    async with running(engine) as appender:
        head = NO_STREAM
        for number in range(6):
            await appender.append(new_stream(100))
            payload = b'{"amount":1.10}' if number else b'"' + b"x" * 9_000 + b'"'
            one = NewEvent("Happened", b'{"n":%d}' % number, payload, b'{"node":"a"}', id=uuid4())
            head = (await appender.append(Append(RUN, head, [one]))).head
        await appender.append(Append(RUN, head, [NewEvent("Ended")]))


async def bundled(engine: AsyncEngine, key: Ed25519PrivateKey | None = KEY, run: UUID = RUN) -> tuple[bytes, Bundled]:
    file, keeper = io.BytesIO(), HeadKeeper(engine, key=key)
    try:
        said = await Bundler(engine, keeper, key.public_key() if key else None).bundle(run, file.write)
    finally:
        await keeper.close()
    return file.getvalue(), said


def check(text: bytes, key: Ed25519PrivateKey | None = KEY) -> CheckedBundle:
    return check_bundle(io.BytesIO(text), key.public_key() if key else None)


def sealed(lines: Sequence[Line]) -> bytes:
    """The lines with a trailer that fits them, as somebody who forges them would write it."""
    texts = [json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for line in lines]
    trailer = {"perdure": "end", "events": len(lines) - 1, "streams": sum(line.get("version") == 1 for line in lines)}
    trailer["sha256"] = sha256(b"".join(texts)).hexdigest()
    return b"".join([*texts, json.dumps(trailer, separators=(",", ":")).encode() + b"\n"])


def parsed(text: bytes) -> list[Line]:
    # 1.10 has to stay as it is written.
    lines = [json.loads(line, parse_float=_Number) for line in text.splitlines()[:-1]]
    for line in lines:
        if "payload" in line and isinstance(line["payload"], dict):
            line["payload_text"] = '{"amount":1.10}'
            del line["payload"]
    return lines


class _Number(float):
    pass


async def test_a_signed_bundle_proves_its_run(engine: AsyncEngine) -> None:
    text, said = await bundled(engine)
    assert (said.events, said.size, said.signed) == (7, 607, True)
    checked = check(text)
    assert checked == CheckedBundle(
        RUN, 7, 0, said.origin, 607, said.root, True, verifier_key(said.origin, KEY.public_key()), True
    )
    assert check(text, None) == checked._replace(trusted=False)
    assert check(sealed(parsed(text))) == checked


async def test_the_head_that_is_signed_already_is_the_one(engine: AsyncEngine) -> None:
    _, first = await bundled(engine)
    async with running(engine) as appender:
        await appender.append(new_stream(3))
    text, said = await bundled(engine)
    assert said == first
    assert check(text).size == 607
    without_key, said = await bundled(engine, None)
    assert said == first
    assert check(without_key) == check(text)
    unnamed = check(without_key, None)
    assert (unnamed.signed, unnamed.signer, unnamed.trusted) == (True, None, False)


async def test_without_a_key_the_root_is_not_signed_and_no_key_vouches_for_it(engine: AsyncEngine) -> None:
    text, said = await bundled(engine, None)
    assert not said.signed
    checked = check(text, None)
    assert (checked.events, checked.signed, checked.signer, checked.trusted) == (7, False, None, False)
    with pytest.raises(TransferRefused, match="not signed, so no key can vouch for it"):
        check(text)


async def test_a_run_that_is_not_there_has_no_bundle(engine: AsyncEngine) -> None:
    with pytest.raises(NothingToProve, match="there is no run"):
        await bundled(engine, run=uuid4())


async def test_an_erased_payload_leaves_the_proof_whole(engine: AsyncEngine, database_url: str) -> None:
    tamper(
        database_url,
        f"update perdure.events set payload = null, payload_salt = null where stream = '{RUN}' and version = 2",
    )
    text, _ = await bundled(engine)
    assert check(text).erased == 1


def flipped(value: str) -> str:
    """Another of the same form."""
    last = "1" if value[-1] != "1" else "2"
    return value[:-1] + last


TAMPERINGS: dict[str, Callable[[list[Line]], Any]] = {
    "position": lambda lines: lines[7].update(position=lines[7]["position"] + 1),
    "stream": lambda lines: lines[3].update(stream=str(uuid4())),
    "version": lambda lines: lines[3].update(version=4),
    "id": lambda lines: lines[3].update(id=str(uuid4())),
    "type": lambda lines: lines[3].update(type="Other"),
    "schema_version": lambda lines: lines[3].update(schema_version=2),
    "recorded_at": lambda lines: lines[3].update(recorded_at="2020-01-01T00:00:00Z"),
    "data": lambda lines: lines[3].update(data={"n": 9}),
    "metadata": lambda lines: lines[3].update(metadata={}),
    "payload": lambda lines: lines[3].update(payload_text='{"amount":1.1}'),
    "payload taken away": lambda lines: lines[3].pop("payload_text"),
    "salt": lambda lines: lines[3].update(salt=flipped(lines[3]["salt"])),
    "digest": lambda lines: lines[3].update(digest=flipped(lines[3]["digest"])),
    "previous": lambda lines: lines[3].update(previous=flipped(lines[3]["previous"])),
    "hash": lambda lines: lines[3].update(hash=flipped(lines[3]["hash"])),
    "leaf": lambda lines: lines[3].update(leaf=lines[3]["leaf"] + 1),
    "leaf beyond the tree": lambda lines: lines[3].update(leaf=10_000),
    "path": lambda lines: lines[3]["path"].__setitem__(0, flipped(lines[3]["path"][0])),
    "path cut": lambda lines: lines[3]["path"].pop(),
    "path longer": lambda lines: lines[3]["path"].append("00" * 32),
    "an event left out": lambda lines: lines.pop(3),
    "the first left out": lambda lines: lines.pop(1),
    "all left out": lambda lines: lines.__delitem__(slice(1, None)),
    "two swapped": lambda lines: lines.insert(3, lines.pop(4)),
    "run": lambda lines: lines[0].update(run=str(uuid4())),
    "head's size": lambda lines: lines[0].update(note=lines[0]["note"].replace("\n607\n", "\n608\n")),
    "head's origin": lambda lines: lines[0].update(note=lines[0]["note"].replace("perdure/", "perdure/0")),
    "head's time": lambda lines: lines[0].update(note=lines[0]["note"].replace("time 2", "time 3")),
    "head's signature": lambda lines: lines[0].update(note=lines[0]["note"].rpartition("— ")[0]),
    "no head": lambda lines: lines[0].pop("note"),
    "another key named": lambda lines: lines[0].update(verifier_key=verifier_key("x", OTHER_KEY.public_key())),
    "no key at all": lambda lines: lines[0].update(verifier_key="nothing"),
    "a member of no meaning": lambda lines: lines[0].update(more=1),
    "a later format": lambda lines: lines[0].update(format=2),
    "an export": lambda lines: lines[0].update(perdure="export"),
}


@pytest.mark.parametrize("trusting", [True, False], ids=["with the key", "without"])
async def test_a_bundle_changed_anywhere_is_refused(
    engine: AsyncEngine, subtests: pytest.Subtests, trusting: bool
) -> None:
    text, _ = await bundled(engine)
    for what, change in TAMPERINGS.items():
        with subtests.test(what):
            lines = parsed(text)
            change(lines)
            with pytest.raises(TransferRefused):
                check(sealed(lines), KEY if trusting else None)


async def test_a_chain_that_is_broken_in_the_log_itself_is_seen(engine: AsyncEngine, database_url: str) -> None:
    """Somebody altered an event and hashed it anew before the head was signed, and names the old one as the next's."""
    ((old,),) = rows(database_url, f"select hash from perdure.events where stream = '{RUN}' and version = 2")
    tamper(
        database_url,
        f"""update perdure.events e set type = 'Other', hash = perdure.event_hash_v1(
            (select hash from perdure.events where stream = '{RUN}' and version = 1), stream, version, id, 'Other',
            schema_version, recorded_at, data::text, metadata::text, payload_digest)
            where stream = '{RUN}' and version = 2""",
    )
    lines = parsed((await bundled(engine))[0])
    with pytest.raises(TransferRefused, match="line 4: its hash does not match"):
        check(sealed(lines))
    lines[3].update(previous=old.hex())
    with pytest.raises(TransferRefused, match="line 4: it does not follow the event before it"):
        check(sealed(lines))


async def test_a_bundle_that_was_cut_or_whose_bytes_changed_is_refused(engine: AsyncEngine) -> None:
    text, _ = await bundled(engine)
    lines = text.splitlines(keepends=True)
    for broken in (text[:-1], b"".join(lines[:-1]), b"".join([*lines[:2], *lines[3:]]), text + b"\n", b"", b"{}\n"):
        with pytest.raises(TransferRefused, match=r"^line \d+: "):
            check(broken)


async def test_the_head_of_another_log_proves_nothing(engine: AsyncEngine) -> None:
    ours = parsed((await bundled(engine))[0])
    async with another_log(url_of(engine)) as other:
        await fill(other)
        theirs = parsed((await bundled(other))[0])
    with pytest.raises(TransferRefused, match="line 2: its proof does not lead to the head"):
        check(sealed([theirs[0], *ours[1:]]))
    # Their own bundle is sound, and says of which log it is.
    assert check(sealed(theirs)).origin != ours[0]["note"].partition("\n")[0]


async def test_a_bundle_signed_with_another_key_is_refused(engine: AsyncEngine) -> None:
    text, _ = await bundled(engine, OTHER_KEY)
    with pytest.raises(TransferRefused, match="line 1: its head is not signed with the key that was given"):
        check(text)
    assert not check(text, None).trusted
