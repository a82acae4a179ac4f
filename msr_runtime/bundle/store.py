"""A bundle: one folder that holds an adaptable network, its description and the digests of its files.

The folder holds `manifest.json`, the manifest's digest `manifest.sha256` (in the format of `sha256sum`), and the files
that the manifest lists with their digests. So this one digest covers every byte of the bundle.

Digests find damaged and mixed-up files. They do not prove who made the bundle, because a person who changes a file can
change the digests too. The proof is the signature `manifest.sig`, which is optional (see `msr_runtime.bundle.signing`).
"""

import hashlib
import secrets
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from safetensors.numpy import load, save

from msr_runtime.bundle.golden import Golden, read_golden
from msr_runtime.bundle.limits import (
    MAX_GOLDEN,
    MAX_LINE,
    MAX_MANIFEST,
    largest_constant,
    largest_graph,
    largest_source,
    largest_tensors,
)
from msr_runtime.bundle.manifest import MANIFEST, MANIFEST_DIGEST, Manifest, parse_manifest
from msr_runtime.bundle.signing import SIGNATURE, PathLike, check_signature, sign
from msr_runtime.bundle.stream import Stream, read_stream
from msr_runtime.errors import BundleError
from msr_runtime.files import exchange, local_path, sync_folder, write_atomically, write_new
from msr_runtime.task import Array, Shape, sample_shape

PREDICT, ADAPT, LOSS = "predict.onnx", "adapt.onnx", "loss.onnx"
START, GOLDEN = "start.safetensors", "golden.npz"
SUMS, SOLVE = "sums.onnx", "solve.onnx"
UPDATE, DEVIATION, STREAM = "update.onnx", "deviation.onnx", "stream.npz"
REQUIRED = (PREDICT, ADAPT, LOSS, START, GOLDEN)
"""The files of a bundle that adapts by inner steps."""
RECURSIVE = (PREDICT, UPDATE, DEVIATION, LOSS, START, GOLDEN, STREAM)
"""The files of a bundle that learns sample by sample."""
MANY = (SUMS, SOLVE)
"""The files of an inner step from many samples. A bundle has both or none."""
NATIVE_SOURCE, _NATIVE = "native.c", "native."
"""The C source of native code, and what the names of all its files begin with: one library for each processor."""
GRAPHS = (PREDICT, ADAPT, LOSS, *MANY, UPDATE, DEVIATION)
"""All ONNX graphs that a bundle may have."""
_RUN = ("last.safetensors", "best.safetensors")
"""Files of a run's folder, which is often given where a bundle is wanted."""


def encode_start(tensors: Mapping[str, Array]) -> bytes:
    """Return the bytes of `start.safetensors`.

    Args:
        tensors: The meta-learned filter parameters "v" `(1, K)` and the weights folded from them, by name.
    """
    return save({name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest and the bytes of every listed file, each checked against its digest."""

    path: Path
    """The bundle's folder."""
    manifest: Manifest
    """The description of the bundle."""
    digest: str
    """sha256 of manifest.json, in hex. It identifies the bundle, because the manifest lists all other digests."""
    files: Mapping[str, bytes]
    """The bytes of each listed file, by file name."""
    signature: bytes | None = None
    """An Ed25519 signature of the digest, or None. It is checked only if trusted keys were given."""

    @classmethod
    def open(cls, path: PathLike, trusted_keys: Sequence[PathLike] | None = None) -> Self:
        """Read the bundle in the folder `path` and check every byte of it.

        This is `read` and `check_graphs`.

        Args:
            path: The bundle's folder.
            trusted_keys: PEM files of Ed25519 public keys. Only a bundle that one of these keys signed is opened.
                Before the signature is checked, nothing but the digest is used. None opens unsigned bundles too. An
                empty list opens no bundle.

        Raises:
            BundleError: If a file is missing, changed, malformed, too large or outside the folder.
            SignatureError: If trusted keys were given, and the bundle is unsigned or signed by none of them.
            KeyFileError: If a trusted key cannot be read.

        Example:
            >>> from msr_runtime import Bundle
            >>> opened = Bundle.open(bundle)
            >>> opened.manifest.name, opened.manifest.rate_hz
            ('ring-nav', 10.0)
            >>> "predict.onnx" in opened.files
            True
        """
        bundle = cls.read(path, trusted_keys)
        bundle.check_graphs()
        return bundle

    @classmethod
    def read(cls, path: PathLike, trusted_keys: Sequence[PathLike] | None = None) -> Self:
        """Read the bundle in the folder `path` as `open` does, but do not look into its graphs.

        It is for a program that runs the bundle's native code, and no graph. Before a graph is run, `check_graphs` has
        to look into it.

        Args:
            path: As in `open`.
            trusted_keys: As in `open`.

        Raises:
            BundleError: As in `open`, but for the graphs.
            SignatureError: As in `open`.
            KeyFileError: As in `open`.
        """
        folder = local_path(path)
        if not folder.is_dir():
            raise BundleError(
                f"bundle '{folder}' is not a folder; give the path of the whole folder that `msr export` wrote"
            )
        if not (folder / MANIFEST).exists() and any((folder / name).is_file() for name in _RUN):
            raise BundleError(
                f"'{folder}' is the folder of a run and not a bundle; export it first: msr export {folder} "
                f"{folder / 'bundle'}"
            )
        raw = _read(folder, MANIFEST, MAX_MANIFEST)
        digest = hashlib.sha256(raw).hexdigest()
        if (seen := _read(folder, MANIFEST_DIGEST, MAX_LINE)) != _digest_line(digest):
            raise BundleError(
                f"bundle '{folder}': {MANIFEST} has sha256 {digest}, but {MANIFEST_DIGEST} holds "
                f"'{seen[:64].decode('ascii', 'backslashreplace').strip()}'; "
                "the manifest was edited or the copy is incomplete: copy the bundle again, or export again"
            )
        signature = _read(folder, SIGNATURE, MAX_LINE) if (folder / SIGNATURE).exists() else None
        if trusted_keys is not None:
            check_signature(_digest_line(digest), signature, trusted_keys, f"bundle '{folder}'")
        # Parsed only now: where keys are trusted, no parser sees bytes that none of them signed.
        manifest = parse_manifest(raw, f"bundle '{folder}'")
        needed = (*_required(manifest), *(MANY if any(name in manifest.files for name in MANY) else ()))
        if absent := [name for name in needed if name not in manifest.files]:
            raise BundleError(
                f"bundle '{folder}': {MANIFEST} lists {sorted(manifest.files)} but not '{absent[0]}', which every "
                "bundle with these files has; export again"
            )
        files = {}
        for name, wanted in manifest.files.items():
            files[name] = _read(folder, name, _largest(name, manifest))
            if (seen := hashlib.sha256(files[name]).hexdigest()) != wanted:
                raise BundleError(
                    f"bundle '{folder}': {name} ({len(files[name])} bytes) has sha256 {seen}, but {MANIFEST} wants "
                    f"{wanted}; the file was changed or the copy is incomplete: copy the bundle again, or export again"
                )
        return cls(folder, manifest, digest, files, signature)

    def check_graphs(self) -> None:
        """Refuse graphs that hold what no bundle's graph does, see `msr_runtime.bundle.graphs`.

        Raises:
            BundleError: If one does.
        """
        from msr_runtime.bundle.graphs import check_graph  # it brings protobuf, which native code does without

        for name in sorted(self.files.keys() & set(GRAPHS)):
            check_graph(self.files[name], largest_constant(self.manifest), f"bundle '{self.path}': {name}")

    def check_signature(self, trusted_keys: Sequence[PathLike]) -> str:
        """Return the fingerprint of the trusted key that signed this bundle.

        Args:
            trusted_keys: PEM files of Ed25519 public keys.

        Raises:
            SignatureError: If the bundle is unsigned or signed by none of these keys.
            KeyFileError: If a trusted key cannot be read.
        """
        return check_signature(_digest_line(self.digest), self.signature, trusted_keys, f"bundle '{self.path}'")

    def sign(self, private_key: PathLike) -> Self:
        """Write the signature of this bundle into its folder and return the signed bundle.

        An older signature is replaced.

        Args:
            private_key: A PEM file with an unencrypted Ed25519 private key.

        Raises:
            BundleError: If the folder now holds another bundle.
            KeyFileError: If `private_key` is not such a file.
        """
        line = _digest_line(self.digest)
        signature = sign(line, private_key)
        if _read(self.path, MANIFEST_DIGEST, MAX_LINE) != line:
            raise BundleError(
                f"bundle '{self.path}' was replaced by another one before it was signed, so nothing was written; open "
                "the new bundle and sign that"
            )
        write_atomically(self.path / SIGNATURE, signature)
        return replace(self, signature=signature)

    def start(self) -> dict[str, Array]:
        """Return the tensors that an adaptation starts from, float32, by name.

        These are the meta-learned filter parameters "v" `(1, K)` and the weights folded from them.

        Raises:
            BundleError: If start.safetensors cannot be read or does not hold these tensors.
        """
        return load_tensors(self.files[START], self.manifest, f"bundle '{self.path}': {START}")

    def golden(self) -> Golden:
        """Return the golden example.

        Raises:
            BundleError: If golden.npz does not hold one, or one of other shapes or more inner steps than the manifest
                says. This is found before an array is unpacked.
        """
        return read_golden(self.files[GOLDEN], self.manifest, f"bundle '{self.path}': {GOLDEN}")

    def stream(self) -> Stream:
        """Return the golden stream of a bundle with the rule `recursive`.

        Raises:
            BundleError: As `golden` does.
        """
        return read_stream(self.files[STREAM], self.manifest, f"bundle '{self.path}': {STREAM}")


def load_tensors(data: bytes, manifest: Manifest, where: str, *, belief: bool = False) -> dict[str, Array]:
    """Return the filter parameters "v" `(1, K)` and the folded weights of a safetensors file, by name, "v" first.

    Args:
        data: The bytes of the file.
        manifest: The manifest that lists their names and shapes.
        where: The name of the file in error messages.
        belief: Whether the file also holds "rows" and "decays", which say how sure the rule `recursive` is of v. It may
            hold the first samples too, as long as all are known: "first_x", "first_y" and "first_keep".

    Raises:
        BundleError: If the file is damaged or larger than these tensors; or if a tensor is missing or unknown, has a
            wrong shape or dtype, or is not finite.
    """
    if len(data) > (most := largest_tensors(manifest)):
        raise BundleError(
            f"{where} has {len(data)} bytes, but its manifest's tensors take less than {most}; it is damaged or "
            "belongs to another bundle: copy it again"
        )
    try:
        tensors = load(data)
    except Exception as error:  # safetensors has an error type of its own, and a forged header fails in numpy
        raise BundleError(
            f"{where} cannot be read ({error}); it is damaged, or is not a safetensors file: copy it again, or make it "
            "again"
        ) from error
    wanted = {"v": (1, manifest.filter_parameters)} | {weight.name: weight.shape for weight in manifest.weights}
    if belief:
        wanted |= {"rows": manifest.belief_shape, "decays": manifest.belief_shape[:1]}
        wanted |= _first_samples(manifest, tensors)
    return _check_tensors(tensors, wanted, where)


def _first_samples(manifest: Manifest, tensors: Mapping[str, Array]) -> dict[str, Shape]:
    """Return the shapes of the first samples, which a file may leave out."""
    kept = tensors.get("first_keep")
    if kept is None or manifest.recursion is None:
        return {}
    count = min(kept.size, manifest.recursion.relinearize)
    x, y = (sample_shape(fields) for fields in (manifest.inputs, manifest.outputs))
    return {"first_x": (count, *x), "first_y": (count, *y), "first_keep": (count,)}


def _check_tensors(tensors: Mapping[str, Array], wanted: Mapping[str, Shape], where: str) -> dict[str, Array]:
    for name in (*wanted, *tensors):
        seen = tensors.get(name)
        if seen is None or seen.shape != wanted.get(name) or seen.dtype != np.float32 or not np.isfinite(seen).all():
            found = "is missing" if seen is None else f"has shape {seen.shape} and dtype {seen.dtype}"
            raise BundleError(
                f"{where}: '{name}' {found}, but "
                f"{f'finite float32 of shape {wanted[name]}' if name in wanted else 'no such tensor'} is wanted; "
                "the file is damaged or belongs to another bundle: copy it again, or export again"
            )
    return {name: tensors[name] for name in wanted}


def _required(manifest: Manifest) -> tuple[str, ...]:
    """Return the files that a bundle with this manifest needs, beside the manifest and its digest."""
    return RECURSIVE if manifest.recursion else REQUIRED


def write_bundle(
    path: PathLike, manifest: Manifest, files: Mapping[str, bytes], private_key: PathLike | None = None
) -> Bundle:
    """Write a bundle as the folder `path` and return it, opened and checked.

    The folder is written under another name and renamed, so it is never incomplete. An older bundle at `path` is
    replaced, and its signature is removed with it. Linux exchanges the two folders in one step. On other systems there
    is a short time without a bundle at `path`.

    Args:
        path: The folder to write.
        manifest: The manifest. This function fills in the digests of the files.
        files: The bytes of each file, by file name.
        private_key: A PEM file with an unencrypted Ed25519 private key, to sign the bundle with before it replaces the
            old one: a robot that wants a signature never finds it without. None: the bundle is not signed.

    Raises:
        KeyFileError: If `private_key` is not such a file.
        BundleError: If a required file is missing, or `path` holds something that is not a bundle.
        ValueError: If a file name is not allowed in a bundle (pydantic's ValidationError).
        OSError: If the system refuses, for example because the disk is full. An older bundle stays as it was.
    """
    target = local_path(path).resolve()
    if absent := [name for name in _required(manifest) if name not in files]:
        raise BundleError(
            f"bundle '{target}' cannot be written: '{absent[0]}' is missing from its files {sorted(files)}; a bundle "
            f"needs {', '.join(_required(manifest))}"
        )
    if target.exists() and not (target / MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise BundleError(
            f"'{target}' exists and is not a bundle, so it is not replaced; name another folder, or remove it"
        )
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    raw = Manifest.model_validate(manifest.model_dump() | {"files": digests}).to_bytes()
    line = _digest_line(hashlib.sha256(raw).hexdigest())

    # The new folder stands beside the target, because names are exchanged only within one file system.
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    fresh, old = (target.with_name(f".{target.name}.{mark}.{end}") for end in ("new", "old"))
    fresh.mkdir()
    try:
        for name, data in {**files, MANIFEST: raw, MANIFEST_DIGEST: line}.items():
            write_new(fresh / name, data)
        sync_folder(fresh)
        bundle = Bundle.open(fresh)  # read back, so that a bundle that cannot be opened never replaces a good one
        bundle = bundle if private_key is None else bundle.sign(private_key)
        if target.exists() and exchange(fresh, target):
            old = fresh  # after the exchange, the temporary name holds the old bundle
        else:
            _replace(target, fresh, old)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
    return replace(bundle, path=target)


def _replace(target: Path, fresh: Path, old: Path) -> None:
    """Rename `target`, if it exists, to `old`, and `fresh` to `target`. After an error, all names are as before."""
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


def _largest(name: str, manifest: Manifest) -> int:
    """Return the most bytes of a listed file."""
    if name.startswith(_NATIVE):
        return largest_source(manifest)
    return largest_graph(manifest) if name in GRAPHS else largest_tensors(manifest) if name == START else MAX_GOLDEN


def _read(folder: Path, name: str, most: int) -> bytes:
    """Return the bytes of the file `name` in `folder`.

    The file must be a regular file inside the folder, after links are resolved, and no larger than `most` bytes.
    """
    try:
        file = (folder / name).resolve(strict=True)
        if not file.is_relative_to(folder.resolve()):
            raise BundleError(f"bundle '{folder}': {name} links to '{file}', outside the folder; copy the file itself")
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # reading from a pipe or a device could wait forever
            raise BundleError(
                f"bundle '{folder}': {name} is not a regular file but a folder, pipe or device; copy the bundle again"
            )
        if status.st_size > most:
            raise BundleError(
                f"bundle '{folder}': {name} has {status.st_size} bytes, more than the {most} allowed; it is damaged, "
                "or does not belong to the bundle: copy or export the bundle again"
            )
        with file.open("rb") as opened:
            return opened.read(most)  # no more, even if the file grows meanwhile
    except FileNotFoundError as error:
        raise BundleError(
            f"bundle '{folder}': {name} is missing; the copy is incomplete, or the folder is not a bundle: copy all of "
            "it, or name the folder that `msr export` wrote"
        ) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: links that point at each other
        raise BundleError(
            f"bundle '{folder}': {name} cannot be read ({error}); check its permissions and links"
        ) from error
