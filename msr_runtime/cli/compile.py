"""`msr compile`: compiles a bundle's native code for this machine's processor."""

from pathlib import Path
from typing import Annotated

from msr_runtime.bundle import signing
from msr_runtime.bundle.store import NATIVE_SOURCE, Bundle, write_bundle
from msr_runtime.cli.output import BundlePath, TrustedKeys, option, print_rows
from msr_runtime.errors import BundleError, InputError
from msr_runtime.inference.native import check_compiler, compile_source, library_name

_SHOTS = 256
"""The most samples of a support set, unless meta-training had more."""


def compile_native(
    bundle: BundlePath,
    /,
    compiler: str = "cc",
    key: TrustedKeys = (),
    sign: Annotated[Path | None, option("PRIVATE.pem", "not signed")] = None,
) -> int:
    """Compile a bundle's C source for this processor, for AdaptiveModel(engine="native").

    The library is added to the bundle. Where onnx is installed, the source is written first.

    The bundle's digest changes, so adaptations that were saved before are refused.

    The library is a program: compile and load bundles that you trust.

    Args:
        bundle: The folder of the bundle. It is replaced at once, when the new one is whole.
        compiler: The program that compiles. Nothing is downloaded.
        key: Public keys (Ed25519). The bundle must be signed by one of them.
        sign: A private key (Ed25519), to sign the new bundle with. A signed bundle needs it.
    """
    opened = Bundle.open(bundle, key or None)
    if opened.signature is not None and sign is None:
        raise InputError(
            f"bundle '{bundle}' is signed, and its signature will not fit once a file is added: give the private key "
            "(--sign), or compile before it is signed"
        )
    check_compiler(compiler)
    if sign is not None:
        signing.sign(b"", sign)  # a wrong key is refused before the bundle is replaced
    source = opened.files.get(NATIVE_SOURCE) or _source(opened)
    files = {**opened.files, NATIVE_SOURCE: source, library_name(): compile_source(source, compiler)}
    made = write_bundle(bundle, opened.manifest, files)
    made = made if sign is None else made.sign(sign)
    print_rows({"bundle": f"{bundle} ({made.digest})", library_name(): f"{len(files[library_name()])} bytes"})
    return 0


def _source(bundle: Bundle) -> bytes:
    try:
        from msr_c import write_robot_source  # it needs onnx, which robots do not have
    except ModuleNotFoundError as error:
        raise BundleError(
            f"bundle '{bundle.path}' has no {NATIVE_SOURCE}, and onnx, which writes it, is not installed here: run "
            "`msr compile` once on a workstation, then copy the bundle and run it here again"
        ) from error
    return write_robot_source(bundle, max(_SHOTS, bundle.manifest.shots))
