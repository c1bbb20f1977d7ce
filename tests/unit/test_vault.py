"""The frame around an encrypted payload, and the master keys: what fits is read, all else is a sentence."""

import base64
import os
import stat
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from perdure_eventstore.vault.envelope import COMPRESS_ABOVE, seal, unseal
from perdure_eventstore.vault.errors import VaultError
from perdure_eventstore.vault.frame import KIND, is_frame
from perdure_eventstore.vault.master import MasterKeys, new_master_key

STREAM = UUID(int=7)
CIPHER = AESGCM(bytes(32))


@given(st.binary(max_size=3 * COMPRESS_ABOVE), st.integers(1, 2**31 - 1))
def test_what_is_sealed_is_unsealed_in_its_place(payload: bytes, version: int) -> None:
    frame = seal(CIPHER, STREAM, version, payload)
    assert is_frame(frame)
    assert unseal(CIPHER, STREAM, version, frame) == payload


def test_no_json_text_passes_for_a_frame() -> None:
    for text in (b'{"a": 1}', b" [] ", b"\n\t{}", b"null", b"1", b'"x"', b""):
        assert not is_frame(text)
    assert not is_frame(None)
    assert KIND < 0x20
    assert bytes([KIND]).strip() != b""


def test_a_long_payload_is_compressed_where_that_helps() -> None:
    text, noise = b'{"a": 1}' * 1000, os.urandom(8000)
    assert len(seal(CIPHER, STREAM, 1, text)) < 500
    assert len(seal(CIPHER, STREAM, 1, noise)) == len(noise) + 30
    short = b"a" * COMPRESS_ABOVE
    assert len(seal(CIPHER, STREAM, 1, short)) == len(short) + 30
    for payload in (text, noise, short):
        assert unseal(CIPHER, STREAM, 1, seal(CIPHER, STREAM, 1, payload)) == payload


def test_the_same_payload_never_looks_the_same() -> None:
    assert seal(CIPHER, STREAM, 1, b"{}") != seal(CIPHER, STREAM, 1, b"{}")


def test_a_frame_is_read_in_its_own_place_only() -> None:
    frame = seal(CIPHER, STREAM, 3, b'{"a": 1}')
    changed = [bytes([*frame[:i], frame[i] ^ 1, *frame[i + 1 :]]) for i in range(len(frame))]
    places = [(CIPHER, UUID(int=8), 3, frame), (CIPHER, STREAM, 4, frame), (AESGCM(bytes(31) + b"x"), STREAM, 3, frame)]
    places += [(CIPHER, STREAM, 3, other) for other in (*changed, frame[:-1], frame[:20], frame[:2], frame + b"x")]
    for cipher, stream, version, other in places:
        with pytest.raises(VaultError, match=rf"the payload of version {version} of stream {stream} "):
            unseal(cipher, stream, version, other)


def test_a_master_key_unwraps_what_it_wrapped(tmp_path: Path) -> None:
    file, key, stream = tmp_path / "master", os.urandom(32), uuid4()
    id_ = new_master_key(file)
    masters = MasterKeys(file)
    wrapped = masters.wrap(stream, key)
    assert masters.newest == id_ == wrapped[:8]
    assert key not in wrapped
    assert masters.unwrap(stream, wrapped) == MasterKeys(file).unwrap(stream, wrapped) == key
    for other, where in ((wrapped[:-1] + b"?", stream), (wrapped, uuid4())):
        with pytest.raises(VaultError, match=f"the key of stream {where} in the key store was changed"):
            masters.unwrap(where, other)


def test_an_older_master_key_still_unwraps_and_a_running_process_finds_the_newer_one(tmp_path: Path) -> None:
    file, stream = tmp_path / "master", uuid4()
    first = new_master_key(file)
    running = MasterKeys(file)
    old = running.wrap(stream, b"k" * 32)
    second = new_master_key(file, add=True)
    masters = MasterKeys(file)
    assert masters.newest == second != first
    assert masters.unwrap(stream, old) == b"k" * 32
    new = masters.wrap(stream, b"k" * 32)
    assert not masters.is_newest(old)
    assert masters.is_newest(new)
    assert running.unwrap(stream, new) == b"k" * 32
    assert running.newest == second


def test_another_master_key_is_told_by_its_id(tmp_path: Path) -> None:
    id_ = new_master_key(tmp_path / "one")
    new_master_key(tmp_path / "two")
    wrapped = MasterKeys(tmp_path / "one").wrap(STREAM, b"k" * 32)
    with pytest.raises(VaultError) as error:
        MasterKeys(tmp_path / "two").unwrap(STREAM, wrapped)
    assert str(error.value) == (
        f"the key of stream {STREAM} is wrapped with master key {id_.hex()}, which is not in {tmp_path / 'two'}"
    )


def test_a_master_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "master"
    new_master_key(file)
    text = file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(VaultError, match="is there already"):
        new_master_key(file)
    assert file.read_bytes() == text
    new_master_key(file, add=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes().startswith(text)
    assert [path.name for path in tmp_path.iterdir()] == ["master"]


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        (None, 0, "cannot be read: No such file"),
        (b"", 0o600, "holds no master key: make one with `perdure keys new FILE`"),
        (b"# nothing\n\n", 0o600, "holds no master key"),
        (b"secret\n", 0o600, "line 1: a master key is 32 bytes in base64"),
        (base64.b64encode(bytes(31)), 0o600, "line 1: a master key is 32 bytes in base64"),
        (base64.b64encode(bytes(32)) + b"\n!\n", 0o600, "line 2: a master key is 32 bytes in base64"),
        (base64.b64encode(bytes(32)), 0o644, "is open to others: chmod 600"),
    ],
)
def test_a_file_that_holds_no_master_key_is_a_sentence(
    tmp_path: Path, text: bytes | None, mode: int, sentence: str
) -> None:
    file = tmp_path / "master"
    if text is not None:
        file.write_bytes(text)
        file.chmod(mode)
    for use in (lambda: MasterKeys(file), lambda: new_master_key(file, add=True)):
        with pytest.raises(VaultError, match=sentence):
            use()
    assert text is None or file.read_bytes() == text
