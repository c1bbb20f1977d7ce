"""The check of a bundle: with what stands in it and, if one is given, a public key. No database, no network."""

from base64 import b64decode
from typing import BinaryIO, NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from perdure_eventstore.events import NO_STREAM, Head
from perdure_eventstore.heads import is_signed_by, read_note, verifier_key
from perdure_eventstore.merkle import Inclusion
from perdure_eventstore.transfer.bundle import BundleHeader, BundleLines, ProvenEntry
from perdure_eventstore.transfer.entry import TransferRefused, fault_in
from perdure_eventstore.transfer.lines import Lines


class CheckedBundle(NamedTuple):
    """A bundle that holds together."""

    run: UUID
    events: int
    erased: int
    """Events whose payload is not in it, erased or left out; that they are in the log is proven all the same."""
    origin: str
    size: int
    root: bytes
    signed: bool
    signer: str | None
    """The key whose signature was found right; None where neither the bundle nor the caller named one."""
    trusted: bool
    """That is the caller's."""


class _Claim(NamedTuple):
    """The head that a bundle says it leads to."""

    origin: str
    size: int
    root: bytes
    signer: str | None


def check_bundle(file: BinaryIO, key: Ed25519PublicKey | None = None) -> CheckedBundle:
    """Check every hash, the chain, every payload, every proof and the signature; ``key`` is the one that is trusted.

    Raises TransferRefused with the first thing that is wrong, and its line.
    """
    lines = Lines(file, lambda _line: BundleLines(), "bundle")
    try:
        claim = _claim(lines.header, key)
    except ValueError as error:
        raise TransferRefused(str(error), 1) from error
    head, erased = NO_STREAM, 0
    for number, proven in lines:
        if fault := _fault(proven, lines.header.run, head, claim):
            raise TransferRefused(fault, number)
        head = proven.event.head
        erased += proven.event.payload is None and proven.event.payload_digest is not None
    if head == NO_STREAM:
        raise TransferRefused("it holds no event at all")
    return CheckedBundle(
        run=lines.header.run,
        events=head.version,
        erased=erased,
        origin=claim.origin,
        size=claim.size,
        root=claim.root,
        signed=lines.header.note is not None,
        signer=claim.signer,
        trusted=key is not None,
    )


def _claim(header: BundleHeader, key: Ed25519PublicKey | None) -> _Claim:
    if header.note is None:
        if header.unsigned is None:
            raise ValueError("it names no head")
        if key is not None:
            raise ValueError("its head is not signed, so no key can vouch for it")
        return _Claim(header.unsigned.origin, header.unsigned.size, bytes.fromhex(header.unsigned.root), None)
    head = read_note(header.note)
    claimed = None if header.verifier_key is None else _public_key(header.verifier_key)
    for each, whose in ((key, "the key that was given"), (claimed, "the key it names")):
        if each is not None and not is_signed_by(header.note, each):
            raise ValueError(f"its head is not signed with {whose}, {verifier_key(head.origin, each)}")
    signer = key or claimed
    name = None if signer is None else verifier_key(head.origin, signer)
    if header.verifier_key is not None and header.verifier_key != name:
        raise ValueError(f"its head is signed with {name}, and it names {header.verifier_key}")
    return _Claim(head.origin, head.size, head.root, name)


def _fault(proven: ProvenEntry, run: UUID, head: Head, claim: _Claim) -> str | None:
    event, previous = proven.entry
    if event.stream != run:
        return f"the event is of {event.stream} and not of run {run}"
    if event.version != head.version + 1:
        return f"version {head.version + 1} of the run is missing before its version {event.version}"
    if previous != head.hash:
        return "it does not follow the event before it"
    if fault := fault_in(proven.entry):
        return fault
    try:
        root = Inclusion(event.position, proven.proof.leaf, claim.size, proven.proof.path).root(event.hash)
    except ValueError as error:
        return f"its proof cannot be one: {error}"
    return None if root == claim.root else "its proof does not lead to the head: it is not in that log, or was changed"


def _public_key(name: str) -> Ed25519PublicKey:
    try:
        _log, _id, key = name.split("+", 2)
        return Ed25519PublicKey.from_public_bytes(b64decode(key, validate=True)[1:])
    except ValueError as error:
        raise ValueError(f"{name!r} is no key: {error}") from error
