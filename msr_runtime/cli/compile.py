"""`msr compile`: compiles a bundle's native code for this machine's processor."""

from pathlib import Path
from typing import Annotated

from msr_runtime.bundle import signing
from msr_runtime.bundle.native import INTERFACE, interface_of
from msr_runtime.bundle.store import NATIVE_SOURCE, Bundle, write_bundle
from msr_runtime.cli.output import BundlePath, TrustedKeys, option, print_rows
from msr_runtime.errors import BundleError, InputError
from msr_runtime.inference.native import compile_source, find_compiler, library_name

_SHOTS = 256
"""The most samples of a support set, unless meta-training had more."""


def compile_native(
    bundle: BundlePath,
    /,
    compiler: str = "cc",
    shots: Annotated[int | None, option("N", "what the bundle's source takes; 256 or more in a new one")] = None,
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
        shots: The most samples of a support set. The source is written again for it, which needs onnx, and the
            libraries of other processors are dropped. Each sample takes memory.
        key: Public keys (Ed25519). The bundle must be signed by one of them.
        sign: A private key (Ed25519), to sign the new bundle with. A signed bundle needs it.
    """
    opened = Bundle.open(bundle, key or None)
    if opened.signature is not None and sign is None:
        raise InputError(
            f"bundle '{bundle}' is signed, and its signature will not fit once a file is added: give the private key "
            "(--sign), or compile before it is signed"
        )
    program = find_compiler(compiler)
    if sign is not None:
        signing.sign(b"", sign)  # a wrong key is refused before the compiler runs
    made = add_native(opened, program, shots, sign)
    print_rows({"bundle": f"{bundle} ({made.digest})", library_name(): f"{len(made.files[library_name()])} bytes"})
    return 0


def add_native(bundle: Bundle, compiler: str, shots: int | None = None, private_key: Path | None = None) -> Bundle:
    """Compile a bundle's native code for this processor, and return the bundle with it, which replaces the old one.

    Args:
        bundle: The opened bundle.
        compiler: The path of a compiler.
        shots: The most samples of a support set. None keeps those of the bundle's source.
        private_key: A private key (Ed25519), to sign the new bundle with. None: it is not signed.

    Raises:
        BundleError: If a source has to be written, and onnx is not installed.
        ExportError: If the bundle cannot be written in C.
        InputError: If the compiler refuses the source.
    """
    source, files = bundle.files.get(NATIVE_SOURCE), dict(bundle.files)
    if source is None or shots is not None or interface_of(source) != INTERFACE:
        source = _source(bundle, max(_SHOTS, bundle.manifest.shots) if shots is None else shots)
    if source != files.get(NATIVE_SOURCE):
        files = {name: data for name, data in files.items() if not name.endswith(".so")}
    files |= {NATIVE_SOURCE: source, library_name(): compile_source(source, compiler)}
    return write_bundle(bundle.path, bundle.manifest, files, private_key)


def _source(bundle: Bundle, shots: int) -> bytes:
    try:
        from msr_c import write_robot_source  # it needs onnx, which robots do not have
    except ModuleNotFoundError as error:
        raise BundleError(
            f"{NATIVE_SOURCE} of bundle '{bundle.path}' has to be written, and onnx, which writes it, is not installed "
            "here: run `msr compile` on a workstation (extra `train`), then copy the bundle and run it here again"
        ) from error
    return write_robot_source(bundle, shots)
