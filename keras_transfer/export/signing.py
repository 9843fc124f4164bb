"""Who vouches for an export: an Ed25519 signature (RFC 8032) of its manifest.

``manifest.json`` lists the digest of every other file, so that a signature of it is one of them
all. The signature is 64 plain bytes, which OpenSSL checks too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_transfer.base import files
from keras_transfer.base.errors import UsageError, require
from keras_transfer.export.proof import MANIFEST, SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

_PRIVATE = "Make one with `openssl genpkey -algorithm ed25519 -out key.pem`."
_PUBLIC = "Get it from whoever signed: `openssl pkey -in key.pem -pubout -out public.pem`."


def read_private_key(path: str | os.PathLike[str]) -> Ed25519PrivateKey:
    """Reads a key to sign with: PEM, not encrypted.

    Raises:
        UsageError: the file cannot be read or holds something else; cryptography is missing.
    """
    return _read(path, "load_pem_private_key", _PRIVATE, password=None)


def read_public_key(path: str | os.PathLike[str]) -> Ed25519PublicKey:
    """Reads a key to check a signature with: PEM.

    Raises:
        UsageError: the file cannot be read or holds something else; cryptography is missing.
    """
    return _read(path, "load_pem_public_key", _PUBLIC)


def sign(folder: Path, key: Ed25519PrivateKey) -> None:
    """Writes ``manifest.sig`` beside the ``manifest.json`` of an export folder."""
    files.write_bytes(folder / SIGNATURE, key.sign((folder / MANIFEST).read_bytes()))


def check_signature(folder: Path, key: Ed25519PublicKey) -> list[str]:
    """One line where the signature of an export folder is missing or not by this key."""
    from cryptography.exceptions import InvalidSignature

    if not (folder / SIGNATURE).is_file():
        return [f"{SIGNATURE}: missing, so nobody vouches for {MANIFEST}"]
    try:
        key.verify((folder / SIGNATURE).read_bytes(), (folder / MANIFEST).read_bytes())
    except InvalidSignature:
        return [f"{SIGNATURE}: not a signature of {MANIFEST} by this key"]
    return []


def _read(path: str | os.PathLike[str], loader: str, remedy: str, **options: Any) -> Any:
    require(["cryptography"], "pip install 'keras-transfer[sign]', which signatures need.")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    try:
        key = getattr(serialization, loader)(Path(path).read_bytes(), **options)
    except OSError as error:
        raise _no_key(path, f"cannot be read: {error.strerror}", remedy) from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = "is encrypted" if isinstance(error, TypeError) else "is not such a key as PEM"
        raise _no_key(path, reason, remedy) from None
    if not isinstance(key, (ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey)):
        raise _no_key(path, "is a key of another kind than Ed25519", remedy)
    return key


def _no_key(path: str | os.PathLike[str], reason: str, remedy: str) -> UsageError:
    return UsageError(f"the key {os.fspath(path)} {reason}.", remedy=remedy)
