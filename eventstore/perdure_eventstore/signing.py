"""The key that heads are signed with, in PEM files: FILE for its owner alone, FILE.pub for everybody."""

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)


class KeyRefused(ValueError):
    """A key file that cannot be read, is no Ed25519 key, or would be overwritten."""


def generate(file: Path) -> Path:
    """Make a new key: ``file`` (mode 0600) and the public one beside it, which is returned. Raises KeyRefused."""
    key, public = Ed25519PrivateKey.generate(), file.with_name(f"{file.name}.pub")
    for path in (file, public):
        if path.exists():
            raise KeyRefused(f"{path} is there already: a key is never overwritten")
    _write(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _write(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return public


def load_private(file: Path) -> Ed25519PrivateKey:
    """The key in ``file``. Raises KeyRefused."""
    pem = _read(file)
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyRefused(f"{file} holds no private key that can be read: `perdure keygen FILE` makes one") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyRefused(f"{file} holds a key of another kind; heads are signed with Ed25519")
    return key


def load_public(file: Path) -> Ed25519PublicKey:
    """The public key in ``file``; a private key's file gives its public one. Raises KeyRefused."""
    pem = _read(file)
    if b"PRIVATE KEY" in pem:
        return load_private(file).public_key()
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyRefused(f"{file} holds no public key that can be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyRefused(f"{file} holds a key of another kind; heads are signed with Ed25519")
    return key


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise KeyRefused(f"the key {file} cannot be read: {error.strerror}") from error


def _write(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise KeyRefused(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
