"""Signed heads are checkpoints in signed notes, as C2SP describes them, and their keys are kept as keys should be."""

import stat
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from perdure_eventstore.heads import (
    HeadRefused,
    TreeHead,
    is_signed_by,
    key_id,
    origin,
    read_note,
    sign,
    split_notes,
    verifier_key,
)
from perdure_eventstore.signing import KeyRefused, generate, load_private, load_public

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
LOG = UUID("3f0c6a52-8d1e-4b8f-9d7c-2f6a1b0c9e55")
HEAD = TreeHead(origin(LOG), 1_048_832, bytes(range(32)), 1_048_911, datetime(2026, 1, 31, 12, 0, 0, 42, UTC))
NOTE = """perdure/3f0c6a52-8d1e-4b8f-9d7c-2f6a1b0c9e55
1048832
AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
position 1048911
time 2026-01-31T12:00:00.000042Z

— perdure/3f0c6a52-8d1e-4b8f-9d7c-2f6a1b0c9e55 SIGNATURE
"""


def test_a_head_is_written_as_a_checkpoint_in_a_signed_note() -> None:
    note = sign(HEAD, KEY)
    signature = key_id(HEAD.origin, KEY.public_key()) + KEY.sign(HEAD.text.encode())
    assert note == NOTE.replace("SIGNATURE", b64encode(signature).decode())
    assert read_note(note) == HEAD
    assert is_signed_by(note, KEY.public_key())


def test_a_key_is_known_to_other_tools_by_the_id_that_signed_notes_give_it() -> None:
    # The example of golang.org/x/mod/sumdb/note.
    peter = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    raw = b64decode(peter.split("+", 2)[2])
    public = Ed25519PublicKey.from_public_bytes(raw[1:])
    assert verifier_key("PeterNeumann", public) == peter
    note = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
        "\n"
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    assert key_id("PeterNeumann", public).hex() == "c74f20a3"
    text, _, signature = note.partition("\n\n")
    public.verify(b64decode(signature.split(" ")[2])[4:], f"{text}\n".encode())


@pytest.mark.parametrize(
    ("changed", "to"),
    [
        ("1048832", "1048833"),
        ("AAEC", "AAED"),
        ("position 1048911", "position 1048910"),
        ("000042Z", "000043Z"),
        ("perdure/3f", "perdure/3e"),
    ],
)
def test_a_signature_covers_every_line(changed: str, to: str) -> None:
    forged = sign(HEAD, KEY).replace(changed, to)
    assert forged != sign(HEAD, KEY)
    read_note(forged)
    assert not is_signed_by(forged, KEY.public_key())


def test_another_keys_signature_is_not_the_logs() -> None:
    assert not is_signed_by(sign(HEAD, OTHER), KEY.public_key())


def test_a_witness_may_add_its_signature() -> None:
    cosigned = sign(HEAD, KEY) + "— witness.example/one AAAAAAAA\n"
    assert read_note(cosigned) == HEAD
    assert is_signed_by(cosigned, KEY.public_key())


@pytest.mark.parametrize(
    ("changed", "to"),
    [
        ("1048832", "01048832"),
        ("1048832", "many"),
        ("AAEC", "AA E"),
        ("position ", "place "),
        ("\n\n", "\n"),
        ("time ", "spoken\ntime "),
        ("— ", "- "),
    ],
)
def test_what_is_not_written_as_a_head_is_refused(changed: str, to: str) -> None:
    with pytest.raises(HeadRefused):
        read_note(sign(HEAD, KEY).replace(changed, to))


def test_the_notes_of_a_file_come_apart_again() -> None:
    notes = [sign(HEAD._replace(size=size), KEY) for size in (1, 2, 3)]
    notes[1] += "— witness.example/one AAAAAAAA\n"
    assert list(split_notes("\n".join(notes))) == notes
    assert list(split_notes("".join(notes))) == notes
    assert list(split_notes("")) == []
    assert list(split_notes("no heads\n\nat all\n")) == []


@pytest.mark.parametrize("torn", range(1, len(sign(HEAD._replace(size=2), KEY)) - 1, 7))
def test_a_note_that_was_torn_is_passed_over_and_spoils_no_other(torn: int) -> None:
    first, second, third = (sign(HEAD._replace(size=size), KEY) for size in (1, 2, 3))
    assert list(split_notes(f"{first}\n{second[:torn]}")) == [first]
    assert list(split_notes(f"{first}\n{second[:torn]}\n\n{third}")) == [first, third]


def test_a_key_is_made_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    public = generate(tmp_path / "key")
    assert public == tmp_path / "key.pub"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    note = sign(HEAD, load_private(tmp_path / "key"))
    assert is_signed_by(note, load_public(public))
    assert is_signed_by(note, load_public(tmp_path / "key"))
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(KeyRefused, match=r"key is there already: a key is never overwritten"):
        generate(tmp_path / "key")
    (tmp_path / "key").rename(tmp_path / "elsewhere")
    with pytest.raises(KeyRefused, match=r"key\.pub is there already"):
        generate(tmp_path / "key")
    assert (tmp_path / "elsewhere").read_bytes() == before
    assert not (tmp_path / "key").exists()


def test_a_file_that_holds_no_such_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key")
    other = generate_ec(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "other").write_bytes(other)
    for load in (load_private, load_public):
        with pytest.raises(KeyRefused, match=r"missing cannot be read: No such file"):
            load(tmp_path / "missing")
        with pytest.raises(KeyRefused, match=r"text holds no (private|public) key"):
            load(tmp_path / "text")
        with pytest.raises(KeyRefused, match=r"other holds a key of another kind; heads are signed with Ed25519"):
            load(tmp_path / "other")
