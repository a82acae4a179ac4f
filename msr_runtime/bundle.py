"""A bundle: one folder that holds an adaptable network, what it means and the proof that it is whole.

The folder holds `manifest.json`, its digest `manifest.sha256` (as `sha256sum` writes it) and the files that the
manifest lists with their own digests, so that the one digest covers every byte. The digests find damage and mix-ups;
they vouch for nobody, because whoever can write the folder can write them too. Who made it is said by a signature,
`manifest.sig` (see `msr_runtime.signing`), where one was made.
"""

import hashlib
import io
import secrets
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from safetensors.numpy import load, save

from msr_runtime.errors import BundleError
from msr_runtime.files import exchange, sync_folder, write_atomically, write_new
from msr_runtime.manifest import MANIFEST, MANIFEST_DIGEST, Manifest, parse_manifest
from msr_runtime.signing import SIGNATURE, PathLike, check_signature, sign
from msr_runtime.task import Array

PREDICT, ADAPT, LOSS = "predict.onnx", "adapt.onnx", "loss.onnx"
START, GOLDEN = "start.safetensors", "golden.npz"
REQUIRED = (PREDICT, ADAPT, LOSS, START, GOLDEN)
MAX_BYTES = 2**31 - 1  # protobuf cannot hold a larger model, and nothing else in a bundle comes near it


class Golden(NamedTuple):
    """One adaptation as torch computed it, replayed whenever the bundle is loaded."""

    support_x: Array
    """`(shots, obs)` in raw units."""
    support_y: Array
    """`(shots, out)` in raw units."""
    x: Array
    """`(batch, obs)` in raw units."""
    v: Array
    """`(1, K)`: the filter parameters after `steps` inner steps from `v0`."""
    y: Array
    """`(batch, out)`: the prediction at `v`."""
    y0: Array
    """`(batch, out)`: the prediction at `v0`."""
    losses: Array
    """`(2,)`: the support loss at `v0` and at `v`, on normalised outputs."""
    steps: int

    def to_bytes(self) -> bytes:
        """The example as the bytes of an .npz file."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **self._asdict())
        return buffer.getvalue()


def encode_start(tensors: Mapping[str, Array]) -> bytes:
    """The bytes of `start.safetensors` for the filter parameters "v" `(1, K)` and the weights folded from them."""
    return save({name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every listed file's bytes, each checked against its digest."""

    path: Path
    manifest: Manifest
    digest: str
    """sha256 of manifest.json, which lists all other digests: it names this bundle."""
    files: Mapping[str, bytes]
    signature: bytes | None = None
    """An Ed25519 signature of the digest; unchecked unless trusted keys were given."""

    @classmethod
    def open(cls, path: PathLike, trusted_keys: Sequence[PathLike] | None = None) -> Self:
        """Read and verify the bundle in folder `path`.

        Args:
            path: The bundle's folder.
            trusted_keys: PEM files of Ed25519 public keys: only a bundle that one of them signed is opened, and
                nothing of any other is read but its digest. None opens unsigned ones too; an empty list opens none.

        Raises:
            BundleError: If anything is missing, changed, malformed, too large or outside the folder.
            SignatureError: If trusted keys were given, and the bundle is unsigned or signed by none of them.
            KeyFileError: If a trusted key cannot be read.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise BundleError(f"bundle '{folder}' is not a folder; a bundle is the whole folder that the export wrote")
        raw = _read(folder, MANIFEST)
        digest = hashlib.sha256(raw).hexdigest()
        if (seen := _read(folder, MANIFEST_DIGEST)) != _digest_line(digest):
            raise BundleError(
                f"bundle '{folder}': {MANIFEST} has sha256 {digest}, but {MANIFEST_DIGEST} holds {seen[:80]!r}; "
                "the manifest was edited or the copy is incomplete"
            )
        signature = _read(folder, SIGNATURE) if (folder / SIGNATURE).exists() else None
        if trusted_keys is not None:
            check_signature(_digest_line(digest), signature, trusted_keys, f"bundle '{folder}'")
        manifest = parse_manifest(raw, f"bundle '{folder}'")
        if absent := [name for name in REQUIRED if name not in manifest.files]:
            raise BundleError(f"bundle '{folder}': {MANIFEST} lists {sorted(manifest.files)} but not '{absent[0]}'")
        files = {}
        for name, wanted in manifest.files.items():
            files[name] = _read(folder, name)
            if (seen := hashlib.sha256(files[name]).hexdigest()) != wanted:
                raise BundleError(
                    f"bundle '{folder}': {name} ({len(files[name])} bytes) has sha256 {seen}, but {MANIFEST} wants "
                    f"{wanted}; the file was changed or the copy is incomplete"
                )
        return cls(folder, manifest, digest, files, signature)

    def check_signature(self, trusted_keys: Sequence[PathLike]) -> str:
        """Return the fingerprint of the trusted key, a PEM file, that signed this bundle.

        Raises:
            SignatureError: If it is unsigned or signed by none of them.
            KeyFileError: If a trusted key cannot be read.
        """
        return check_signature(_digest_line(self.digest), self.signature, trusted_keys, f"bundle '{self.path}'")

    def sign(self, private_key: PathLike) -> Self:
        """Write this bundle's signature beside its manifest, in place of an older one; return the signed bundle.

        Raises:
            BundleError: If the folder holds another bundle by now.
            KeyFileError: If `private_key` is no PEM file of an unencrypted Ed25519 private key.
        """
        line = _digest_line(self.digest)
        signature = sign(line, private_key)
        if _read(self.path, MANIFEST_DIGEST) != line:
            raise BundleError(f"bundle '{self.path}' was replaced by another one while it was signed; sign that one")
        write_atomically(self.path / SIGNATURE, signature)
        return replace(self, signature=signature)

    def start(self) -> dict[str, Array]:
        """What every adaptation starts from: the meta-learned v `(1, K)` as "v", and the weights folded from it.

        Raises:
            BundleError: If the file does not hold them.
        """
        where = f"bundle '{self.path}': {START}"
        try:
            tensors = load(self.files[START])
        except Exception as error:  # the parser's own error type, or what a hostile header makes numpy raise
            raise BundleError(f"{where} cannot be read ({error}); it is damaged or of another kind") from error
        return check_tensors(tensors, self.manifest, where)

    def golden(self) -> Golden:
        """The golden example.

        Raises:
            BundleError: If the file does not hold one.
        """
        try:
            with np.load(io.BytesIO(self.files[GOLDEN]), allow_pickle=False) as arrays:
                parts = [arrays[name] for name in Golden._fields]
            return Golden(*parts[:-1], steps=int(parts[-1]))
        except Exception as error:  # a malformed zip or array header raises whatever its parser meets first
            raise BundleError(
                f"bundle '{self.path}': {GOLDEN} is not a golden example ({error}); export again"
            ) from error


def check_tensors(tensors: Mapping[str, Array], manifest: Manifest, where: str) -> dict[str, Array]:
    """The tensors in the manifest's order, "v" `(1, K)` first; `where` names the file in errors.

    Raises:
        BundleError: If a tensor is missing or not wanted, or its shape or dtype differs, or it is not finite.
    """
    wanted = {"v": (1, manifest.filter_parameters)} | {weight.name: weight.shape for weight in manifest.weights}
    for name in (*wanted, *tensors):
        seen = tensors.get(name)
        if seen is None or seen.shape != wanted.get(name) or seen.dtype != np.float32 or not np.isfinite(seen).all():
            found = "is missing" if seen is None else f"has shape {seen.shape} and dtype {seen.dtype}"
            raise BundleError(
                f"{where}: '{name}' {found}, but finite float32 {wanted.get(name, 'of other names')} is wanted; it is "
                "damaged or belongs to another model"
            )
    return {name: tensors[name] for name in wanted}


def write_bundle(path: PathLike, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write `files` and `manifest`, with their digests filled in, as the folder `path`; return it opened and verified.

    The folder appears whole by one rename. An older bundle of that name, its signature with it, gives way in the same
    step where the system can exchange two names (Linux); elsewhere for a moment there is none by that name.

    Raises:
        BundleError: If a required file is missing or `path` holds something that is not a bundle.
        OSError: If the system refuses, for example because the disk is full; an older bundle is there still.
    """
    target = Path(path).resolve()
    if absent := [name for name in REQUIRED if name not in files]:
        raise BundleError(
            f"bundle '{target}' cannot be written: '{absent[0]}' is missing from its files {sorted(files)}"
        )
    if target.exists() and not (target / MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise BundleError(
            f"'{target}' exists and is no bundle, so it is not replaced; name another folder or remove it"
        )
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    raw = Manifest.model_validate(manifest.model_dump() | {"files": digests}).to_bytes()
    line = _digest_line(hashlib.sha256(raw).hexdigest())

    target.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    fresh, old = (target.with_name(f".{target.name}.{mark}.{end}") for end in ("new", "old"))
    fresh.mkdir()
    try:
        for name, data in {**files, MANIFEST: raw, MANIFEST_DIGEST: line}.items():
            write_new(fresh / name, data)
        sync_folder(fresh)
        bundle = Bundle.open(fresh)
        if target.exists() and exchange(fresh, target):
            old = fresh
        else:
            _replace(target, fresh, old)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
    return replace(bundle, path=target)


def _replace(target: Path, fresh: Path, old: Path) -> None:
    """Name `fresh` `target`, what has that name now `old`; on an error all is as it was."""
    if target.exists():
        target.rename(old)
    try:
        fresh.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise


def _digest_line(digest: str) -> bytes:
    return f"{digest}  {MANIFEST}\n".encode()


def _read(folder: Path, name: str) -> bytes:
    """The bytes of a regular file of at most `MAX_BYTES` that lies inside `folder`, links resolved."""
    try:
        file = (folder / name).resolve(strict=True)
        if not file.is_relative_to(folder.resolve()):
            raise BundleError(f"bundle '{folder}': {name} links to '{file}', outside the folder; copy the file itself")
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"bundle '{folder}': {name} is not a regular file")
        if status.st_size > MAX_BYTES:
            raise BundleError(
                f"bundle '{folder}': {name} has {status.st_size} bytes, more than the {MAX_BYTES} allowed"
            )
        return file.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"bundle '{folder}': {name} is missing; the copy is incomplete or it is no bundle") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: a ring of links
        raise BundleError(f"bundle '{folder}': {name} cannot be read ({error})") from error
