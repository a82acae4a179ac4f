"""`msr keygen`, `msr sign` and `msr verify`: who vouches for a bundle."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from msr_runtime.bundle import Bundle
from msr_runtime.commands.output import BundlePath, TrustedKeys, print_rows
from msr_runtime.errors import BundleError
from msr_runtime.signing import make_keys


def keygen(private: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PRIVATE.pem")], /) -> int:
    """Make an Ed25519 key to sign bundles with, and beside it the public key that robots get.

    Args:
        private: Where to write the private key, readable by its owner alone; the public one gets the ending .pub.pem.
    """
    public = private.with_suffix(".pub.pem")
    print_rows({"key": make_keys(private, public), "private, to keep": private, "public, for robots": public})
    return 0


def sign(bundle: BundlePath, /, key: Path) -> int:
    """Sign a bundle, after every digest in it was checked; an older signature is replaced.

    Args:
        bundle: The bundle's folder.
        key: A PEM file with an Ed25519 private key, from `msr keygen` or openssl.
    """
    signed = Bundle.open(bundle).sign(key)
    print_rows({"bundle": f"{signed.path} ({signed.digest})", "signature": "written"})
    return 0


def verify(bundle: BundlePath, /, key: TrustedKeys = ()) -> int:
    """Check every digest of a bundle and, with a key, its signature; exits with 1 if one is wrong.

    Args:
        bundle: The bundle's folder.
        key: PEM files with Ed25519 public keys; one of them has to have signed it.
    """
    if not bundle.is_dir():
        raise BundleError(f"bundle '{bundle}' is not a folder; a bundle is the whole folder that the export wrote")
    try:
        opened = Bundle.open(bundle, key or None)
        signer = opened.check_signature(key) if key else None
    except BundleError as error:
        print(f"msr: {error}", file=sys.stderr)
        return 1
    unchecked = "none" if opened.signature is None else "not checked: no key was given"
    print_rows(
        {
            "bundle": f"{opened.path} ({opened.digest})",
            "digests": f"{len(opened.files) + 1} files as they were written",
            "signature": unchecked if signer is None else f"by key {signer}",
        }
    )
    return 0
