"""The files on disk: a bundle's folder, its manifest and signature, and saved adaptations.

This package reads and writes these files and checks every byte of them. It does not use ONNX Runtime and does not know
the control loop.
"""

from msr_runtime.bundle.adaptation_file import decode_adaptation, encode_adaptation
from msr_runtime.bundle.contract import check_robot
from msr_runtime.bundle.manifest import Manifest, parse_manifest
from msr_runtime.bundle.signing import check_signature, make_keys, sign
from msr_runtime.bundle.store import Bundle, Golden, write_bundle

__all__ = [
    "Bundle",
    "Golden",
    "Manifest",
    "check_robot",
    "check_signature",
    "decode_adaptation",
    "encode_adaptation",
    "make_keys",
    "parse_manifest",
    "sign",
    "write_bundle",
]
