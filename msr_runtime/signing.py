"""Ed25519 signatures over a bundle's digest line, in files that openssl makes and checks too.

What is signed are the bytes of `manifest.sha256`, so that one signature covers every byte of the bundle, and
`openssl pkeyutl -verify -pubin -inkey PUBLIC.pem -rawin -in manifest.sha256 -sigfile manifest.sig` says the same.
A signature says who vouches for a bundle, not that it is the newest one: an older bundle of that signer verifies too.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msr_runtime.errors import KeyFileError, SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PathLike = str | os.PathLike[str]
SIGNATURE = "manifest.sig"
"""The file in a bundle's folder that holds the signature, 64 bytes."""


def make_keys(private: PathLike, public: PathLike) -> str:
    """Write a new pair of keys as PEM files, the private one readable by its owner alone; return the fingerprint.

    Raises:
        KeyFileError: If one of the files exists: a key that is lost cannot be had again.
        ImportError: If cryptography is not installed.
    """
    _need_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    known = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if taken := [path for path in (private, public) if Path(path).exists()]:
        raise KeyFileError(f"'{taken[0]}' exists and is not overwritten, because a lost key cannot be had again")
    for path, data, mode in ((private, secret, 0o600), (public, known, 0o644)):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    return _fingerprint(key.public_key())


def sign(message: bytes, private: PathLike) -> bytes:
    """The signature, 64 bytes, of `message` under the private key in the PEM file `private`.

    Raises:
        KeyFileError: If the file does not hold an unencrypted Ed25519 private key.
        ImportError: If cryptography is not installed.
    """
    return _private(private).sign(message)


def check_signature(message: bytes, signature: bytes | None, trusted_keys: Sequence[PathLike], where: str) -> str:
    """Return the fingerprint of the first trusted key that signed `message`.

    Args:
        message: What was signed.
        signature: None if there is none.
        trusted_keys: PEM files of public keys; several while a key is replaced by the next.
        where: What errors call the thing that is signed.

    Raises:
        SignatureError: If it is unsigned, or signed by none of the keys.
        KeyFileError: If one of the files does not hold an Ed25519 public key.
        ImportError: If cryptography is not installed.
    """
    _need_cryptography()
    from cryptography.exceptions import InvalidSignature

    keys = {_fingerprint(key): key for key in map(_public, trusted_keys)}
    if signature is None:
        raise SignatureError(
            f"{where} is not signed ({SIGNATURE} is missing), but only bundles signed by a trusted key are wanted; "
            "sign it with `msr sign`, or ask whoever made it"
        )
    for fingerprint, key in keys.items():
        try:
            key.verify(signature, message)
        except InvalidSignature:
            continue
        return fingerprint
    raise SignatureError(
        f"{where} is signed, but by none of the {len(keys)} trusted keys ({', '.join(keys) or 'none was given'}); it "
        "was signed with another key, or changed and its digests made anew"
    )


def _private(path: PathLike) -> "Ed25519PrivateKey":
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise _no_key(path, "private", str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private", type(key).__name__)
    return key


def _public(path: PathLike) -> "Ed25519PublicKey":
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise _no_key(path, "public", "it is a private key, which belongs on no robot")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "public", str(error)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public", type(key).__name__)
    return key


def _read(path: PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise KeyFileError(f"key '{path}' cannot be read ({error})") from error


def _no_key(path: PathLike, kind: str, seen: str) -> KeyFileError:
    made = (
        "openssl genpkey -algorithm ed25519 -out private.pem"
        if kind == "private"
        else "openssl pkey -in private.pem -pubout -out public.pem"
    )
    wanted = f"an Ed25519 {kind} key in PEM is wanted, unencrypted, as `{made}` writes it"
    return KeyFileError(f"key '{path}' cannot be used ({seen}), but {wanted}")


def _fingerprint(key: "Ed25519PublicKey") -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ImportError('signatures need cryptography: pip install "msr-runtime[sign]"') from error
