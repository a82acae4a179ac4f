"""`msr keygen`, `msr sign` and `msr verify`: make keys, sign a bundle and check its signature."""

from pathlib import Path
from typing import Annotated

import tyro

from msr_runtime.bundle.signing import make_keys
from msr_runtime.bundle.store import Bundle
from msr_runtime.cli.output import BundlePath, Keys, option, print_rows, refuse
from msr_runtime.errors import BundleError


def keygen(private: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PRIVATE.pem")], /) -> int:
    """Make a pair of Ed25519 keys: a private key to sign bundles, and a public key for the robots.

    Keep the private key secret. Copy the public key to each robot.

    Args:
        private: The file for the private key. Only its owner can read it.
            The public key is written beside it, with the ending .pub.pem.
    """
    public = private.with_suffix(".pub.pem")
    print_rows({"key": make_keys(private, public), "private, to keep": private, "public, for robots": public})
    return 0


def sign(bundle: BundlePath, /, key: Annotated[Path, tyro.conf.arg(metavar="PRIVATE.pem")]) -> int:
    """Sign a bundle with a private key.

    The digests of all files in the bundle are checked first. An older signature is replaced.

    Args:
        bundle: The folder of the bundle.
        key: The private key (Ed25519, PEM), from `msr keygen` or openssl.
    """
    signed = Bundle.open(bundle).sign(key)
    print_rows({"bundle": f"{signed.path} ({signed.digest})", "signature": "written"})
    return 0


def verify(
    bundle: BundlePath,
    /,
    key: Annotated[Keys, option("PUBLIC.pem ...", "none; the signature is not checked")] = (),
) -> int:
    """Check the digests of all files in a bundle and, with a public key, its signature.

    Exit code: 0 if all are right, 1 if one is wrong.

    Args:
        bundle: The folder of the bundle.
        key: Public keys (Ed25519). The bundle must be signed by one of them.
    """
    if not bundle.is_dir():
        raise BundleError(f"bundle '{bundle}' is not a folder; a bundle is the whole folder that `msr export` wrote")
    try:
        opened = Bundle.open(bundle, key or None)
        signer = opened.check_signature(key) if key else None
    except BundleError as error:
        refuse(error)
        return 1
    unchecked = "none" if opened.signature is None else "not checked: no key was given"
    print_rows(
        {
            "bundle": f"{opened.path} ({opened.digest})",
            "digests": f"{len(opened.files) + 1} files are unchanged",
            "signature": unchecked if signer is None else f"by key {signer}",
        }
    )
    return 0
