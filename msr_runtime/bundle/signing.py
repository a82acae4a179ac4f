"""Ed25519 signatures of bundles, in files that openssl can make and check too.

The signed message is the content of `manifest.sha256`. That digest covers the manifest, and the manifest holds the
digests of all other files. So one signature covers every byte of the bundle. openssl checks it like this:

    openssl pkeyutl -verify -pubin -inkey PUBLIC.pem -rawin -in manifest.sha256 -sigfile manifest.sig

A signature says who signed a bundle. It does not say that the bundle is the newest: older bundles of the same signer
pass the check too.
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
"""A path in the file system."""
SIGNATURE = "manifest.sig"
"""Name of the file in a bundle's folder that holds the signature, 64 bytes."""
_PRIME = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = {0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8}
"""The y of the eight points of Ed25519's curve whose order is 1, 2, 4 or 8. Two points share a y, except 1 and -1."""


def make_keys(private: PathLike, public: PathLike) -> str:
    """Write a new pair of Ed25519 keys as PEM files. Needs the extra `sign`.

    Args:
        private: The file of the private key, which signs. Only its owner may read it.
        public: The file of the public key, which checks signatures. Copy this one to the robots.

    Returns:
        The fingerprint of the public key: the first 16 hex digits of the sha256 of its 32 bytes.

    Raises:
        KeyFileError: If one of the files exists. Neither is overwritten, because a lost key cannot be restored.
        ImportError: If the package cryptography is not installed.

    Example:
        >>> from msr_runtime.bundle import check_signature, make_keys, sign
        >>> fingerprint = make_keys(folder / "key.pem", folder / "key.pub.pem")
        >>> signature = sign(b"a message", folder / "key.pem")
        >>> check_signature(b"a message", signature, [folder / "key.pub.pem"], "the message") == fingerprint
        True
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
        raise KeyFileError(
            f"'{taken[0]}' exists and is not overwritten, because a lost key cannot be restored; name another file"
        )
    for path, data, mode in ((private, secret, 0o600), (public, known, 0o644)):
        # The mode is set as the file is created, so that nobody can read the key before a later chmod.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    return _fingerprint(key.public_key())


def sign(message: bytes, private: PathLike) -> bytes:
    """Return the Ed25519 signature of `message`, 64 bytes.

    Args:
        message: The bytes to sign.
        private: A PEM file with the private key.

    Raises:
        KeyFileError: If the file does not hold an unencrypted Ed25519 private key.
        ImportError: If the package cryptography is not installed.
    """
    return _private(private).sign(message)


def check_signature(message: bytes, signature: bytes | None, trusted_keys: Sequence[PathLike], where: str) -> str:
    """Return the fingerprint of the first trusted key that signed `message`.

    Args:
        message: The signed bytes.
        signature: The signature. None means that the message is not signed.
        trusted_keys: PEM files of public keys. Name two while a new key replaces an old one.
        where: The name of the signed thing in error messages.

    Raises:
        SignatureError: If there is no signature, or none of the keys made it.
        KeyFileError: If one of the files does not hold an Ed25519 public key.
        ImportError: If the package cryptography is not installed.
    """
    _need_cryptography()
    from cryptography.exceptions import InvalidSignature

    keys = {_fingerprint(key): key for key in map(_public, trusted_keys)}
    if signature is None:
        raise SignatureError(
            f"{where} is not signed ({SIGNATURE} is missing), but a signature by a trusted key is wanted; sign it with "
            "`msr sign`, or ask its maker for a signed copy"
        )
    for fingerprint, key in keys.items():
        try:
            key.verify(signature, message)
        except InvalidSignature:
            continue
        return fingerprint
    raise SignatureError(
        f"{where} is signed, but by none of the {len(keys)} trusted keys ({', '.join(keys) or 'none was given'}); "
        "either another key signed it, or it was changed after it was signed: trust the signer's key if you know it, "
        "else get the bundle again"
    )


def _private(path: PathLike) -> "Ed25519PrivateKey":
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path)
    if b"PUBLIC KEY" in data:
        raise _no_key(path, "private", "it is a public key, which verifies only; name the other file of the pair")
    _check_alone(path, "private", data)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key is encrypted
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
        raise _no_key(path, "public", "it is a private key, which must stay with the signer")
    _check_alone(path, "public", data)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "public", str(error)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public", type(key).__name__)
    # A key is the y of its point, and one bit for the sign of x.
    y = int.from_bytes(key.public_bytes_raw(), "little") % 2**255
    if y in _SMALL_ORDER or y >= _PRIME:
        raise _no_key(
            path, "public", "anyone could sign for it: its point has a small order, or is not in standard form"
        )
    return key


def _read(path: PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise KeyFileError(f"key '{path}' cannot be read ({error}); check its path and its permissions") from error


def _check_alone(path: PathLike, kind: str, data: bytes) -> None:
    """Refuse a file of several keys: only the first of them would be used."""
    if (keys := data.count(b"-----BEGIN ")) > 1:
        raise _no_key(
            path, kind, f"it holds {keys} keys; write each into a file of its own, and name the files you mean"
        )


def _no_key(path: PathLike, kind: str, seen: str) -> KeyFileError:
    command = (
        "openssl genpkey -algorithm ed25519 -out private.pem"
        if kind == "private"
        else "openssl pkey -in private.pem -pubout -out public.pem"
    )
    wanted = f"an unencrypted Ed25519 {kind} key in PEM is wanted; `{command}` writes one"
    return KeyFileError(f"key '{path}' cannot be used ({seen}); {wanted}")


def _fingerprint(key: "Ed25519PublicKey") -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ImportError('signatures need cryptography: pip install "msr-runtime[sign]"') from error
