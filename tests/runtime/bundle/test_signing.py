"""Signed bundles: keys in openssl's format, and only the digest of a bundle is used before its signature is checked."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hostile import WEAK_POINTS, public_pem

from msr_runtime import AdaptiveModel, Bundle, BundleError, SignatureError
from msr_runtime.bundle import store
from msr_runtime.bundle.manifest import MANIFEST, MANIFEST_DIGEST
from msr_runtime.bundle.signing import SIGNATURE, make_keys
from msr_runtime.bundle.store import PREDICT, write_bundle
from msr_runtime.errors import KeyFileError


class Keys(NamedTuple):
    """The two files of a key pair."""

    private: Path
    public: Path


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Keys]:
    """A function that makes a key pair."""

    def made(name: str) -> Keys:
        keys = Keys(tmp_path / f"{name}.pem", tmp_path / f"{name}.pub.pem")
        make_keys(*keys)
        return keys

    return made


@pytest.fixture
def keys(make: Callable[[str], Keys]) -> Keys:
    """The signer's keys."""
    return make("signer")


@pytest.fixture
def signed(bundle_path: Path, keys: Keys) -> Path:
    """A signed bundle."""
    return Bundle.open(bundle_path).sign(keys.private).path


def test_a_signed_bundle_opens_under_its_key(signed: Path, keys: Keys) -> None:
    """A signed bundle opens with its key and without any key, and its model loads."""
    assert Bundle.open(signed, [keys.public]) == Bundle.open(signed)
    AdaptiveModel.load(signed, trusted_keys=[keys.public])
    AdaptiveModel.load(Bundle.open(signed), trusted_keys=[keys.public])


def test_the_keys_fingerprint_says_who_signed(bundle_path: Path, make: Callable[[str], Keys], tmp_path: Path) -> None:
    """The fingerprint of the signer's key is returned, not that of another trusted key."""
    private, public = tmp_path / "signer.pem", tmp_path / "signer.pub.pem"
    fingerprint = make_keys(private, public)
    signed = Bundle.open(bundle_path).sign(private)
    assert signed.check_signature([make("other").public, public]) == fingerprint


def test_an_unsigned_bundle_is_refused(bundle_path: Path, keys: Keys) -> None:
    """It is refused as a folder and as an opened bundle."""
    for bundle in (bundle_path, Bundle.open(bundle_path)):
        with pytest.raises(SignatureError, match="is not signed"):
            AdaptiveModel.load(bundle, trusted_keys=[keys.public])


def test_a_foreign_signature_is_refused(signed: Path, make: Callable[[str], Keys]) -> None:
    """The message counts the trusted keys and shows their fingerprints."""
    with pytest.raises(SignatureError, match=r"none of the 2 trusted keys \([0-9a-f]{16}, [0-9a-f]{16}\)"):
        Bundle.open(signed, [make("a").public, make("b").public])


def test_a_policy_without_keys_trusts_nobody(signed: Path) -> None:
    """An empty list of keys, for example from an empty folder, refuses every bundle."""
    with pytest.raises(SignatureError, match="none of the 0 trusted keys"):
        Bundle.open(signed, [])


def test_keys_are_replaced_one_by_one(signed: Path, keys: Keys, make: Callable[[str], Keys]) -> None:
    """A robot that trusts the old and the new key opens bundles of both. One that trusts only one key does not."""
    new = make("new")
    both = [keys.public, new.public]
    Bundle.open(signed, both)
    Bundle.open(signed, both).sign(new.private)
    Bundle.open(signed, both)
    Bundle.open(signed, [new.public])
    with pytest.raises(SignatureError):
        Bundle.open(signed, [keys.public])


def test_nothing_of_a_foreign_bundle_is_read_but_its_digest(signed: Path, make: Callable[[str], Keys]) -> None:
    """Neither an unreadable graph nor an invalid manifest is reached: the signature is refused first."""
    (signed / PREDICT).unlink()
    os.mkfifo(signed / PREDICT)  # opening it would wait forever
    raw = b"no manifest"
    (signed / MANIFEST).write_bytes(raw)
    (signed / MANIFEST_DIGEST).write_text(f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n")
    with pytest.raises(SignatureError):
        Bundle.open(signed, [make("other").public])


@pytest.mark.parametrize("name", [MANIFEST, PREDICT])
def test_digests_made_anew_do_not_help(signed: Path, keys: Keys, name: str) -> None:
    """If a file and all digests above it are changed, only the signature shows it."""
    manifest = json.loads((signed / MANIFEST).read_bytes())
    if name == PREDICT:
        (signed / PREDICT).write_bytes((signed / PREDICT).read_bytes() + b"\x32\x01x")  # a note in the model
        manifest["files"][PREDICT] = hashlib.sha256((signed / PREDICT).read_bytes()).hexdigest()
    else:
        manifest["rate_hz"] = 1000.0
    raw = json.dumps(manifest).encode()
    (signed / MANIFEST).write_bytes(raw)
    (signed / MANIFEST_DIGEST).write_text(f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n")
    Bundle.open(signed)
    with pytest.raises(SignatureError, match="none of the 1 trusted keys"):
        Bundle.open(signed, [keys.public])


@pytest.mark.parametrize(
    "signature",
    [b"", bytes(64), b"\xff" * 64, b"x" * 63, b"x" * 10_000],
    ids=["empty", "zeros", "ones", "short", "long"],
)
def test_a_malformed_signature_is_no_signature(signed: Path, keys: Keys, signature: bytes) -> None:
    """A signature of a wrong length or content is refused."""
    (signed / SIGNATURE).write_bytes(signature)
    with pytest.raises(SignatureError):
        Bundle.open(signed, [keys.public])


def test_a_damaged_file_under_a_good_signature_is_refused(signed: Path, keys: Keys) -> None:
    """The signature covers the digests, and the digests cover every byte."""
    (signed / PREDICT).write_bytes((signed / PREDICT).read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleError, match=PREDICT):
        Bundle.open(signed, [keys.public])


def test_writing_a_bundle_anew_drops_the_signature(signed: Path, linear: Any, linear_files: dict[str, bytes]) -> None:
    """A new bundle in the folder does not keep the old bundle's signature."""
    assert write_bundle(signed, linear.manifest(), linear_files).signature is None
    assert Bundle.open(signed).signature is None


def test_a_bundle_is_signed_before_it_replaces_another(
    signed: Path, keys: Keys, linear: Any, linear_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A robot that wants a signature finds one at any moment. A wrong key leaves the old bundle."""
    before = Bundle.open(signed, [keys.public]).digest
    second = linear.manifest().model_copy(update={"method": "second"})
    with pytest.raises(KeyFileError, match="public key"):
        write_bundle(signed, second, linear_files, keys.public)
    assert Bundle.open(signed, [keys.public]).digest == before

    seen = []
    replaced = store.exchange

    def looked_at(fresh: Path, target: Path) -> bool:
        seen.append(Bundle.open(fresh, [keys.public]).digest)
        return replaced(fresh, target)

    monkeypatch.setattr(store, "exchange", looked_at)
    written = write_bundle(signed, second, linear_files, keys.private)
    assert seen == [written.digest] == [Bundle.open(signed, [keys.public]).digest]
    assert written.signature is not None


def test_what_was_replaced_meanwhile_is_not_signed(
    signed: Path, keys: Keys, linear: Any, linear_files: dict[str, bytes]
) -> None:
    """A signature is not written into a folder that now holds another bundle."""
    opened = Bundle.open(signed)
    write_bundle(signed, linear.manifest().model_copy(update={"method": "second"}), linear_files)
    with pytest.raises(BundleError, match="replaced by another one"):
        opened.sign(keys.private)
    assert not (signed / SIGNATURE).exists()


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
class TestOpenssl:
    def run(self, *arguments: str | Path) -> None:
        """Run openssl."""
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    def test_its_keys_sign_and_verify(self, bundle_path: Path, tmp_path: Path) -> None:
        """A key pair made by openssl signs a bundle and opens it."""
        private, public = tmp_path / "private.pem", tmp_path / "public.pem"
        self.run("genpkey", "-algorithm", "ed25519", "-out", private)
        self.run("pkey", "-in", private, "-pubout", "-out", public)
        Bundle.open(bundle_path).sign(private)
        Bundle.open(bundle_path, [public])

    def test_it_says_the_same_of_a_signature(self, signed: Path, keys: Keys, make: Callable[[str], Keys]) -> None:
        """The documented openssl command accepts the signer's key and refuses another key."""

        def verify(public: Path) -> None:
            files = ("-in", signed / MANIFEST_DIGEST, "-sigfile", signed / SIGNATURE)
            self.run("pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", *files)

        verify(keys.public)
        with pytest.raises(subprocess.CalledProcessError):
            verify(make("other").public)

    def test_an_encrypted_key_is_refused(self, bundle_path: Path, tmp_path: Path) -> None:
        """The message says that an unencrypted key is wanted."""
        private = tmp_path / "private.pem"
        self.run("genpkey", "-algorithm", "ed25519", "-aes-256-cbc", "-pass", "pass:x", "-out", private)
        with pytest.raises(KeyFileError, match="unencrypted"):
            Bundle.open(bundle_path).sign(private)


class TestKeyFiles:
    def test_the_private_key_is_its_owners(self, keys: Keys) -> None:
        """Only the owner may read and write the file."""
        assert stat.S_IMODE(keys.private.stat().st_mode) == 0o600

    @pytest.mark.parametrize("taken", [0, 1])
    def test_a_key_is_never_overwritten(self, keys: Keys, tmp_path: Path, taken: int) -> None:
        """If one of the two files exists, it stays as it is, and the other file is not written."""
        before = keys[taken].read_bytes()
        pair = [tmp_path / "new.pem", tmp_path / "new.pub.pem"]
        pair[taken] = keys[taken]
        with pytest.raises(KeyFileError, match="exists and is not overwritten"):
            make_keys(*pair)
        assert keys[taken].read_bytes() == before
        assert not pair[1 - taken].exists()

    @pytest.mark.parametrize("kind", ["absent", "folder", "text", "private", "rsa"])
    def test_what_is_no_public_key_is_named(self, signed: Path, keys: Keys, tmp_path: Path, kind: str) -> None:
        """A trusted key that cannot be used is an error, even beside a key that fits."""
        path = tmp_path / "key.pem"
        if kind == "folder":
            path.mkdir()
        elif kind == "text":
            path.write_text("-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n")
        elif kind == "private":
            path.write_bytes(keys.private.read_bytes())
        elif kind == "rsa":
            public = rsa.generate_private_key(65537, 2048).public_key()
            form = serialization.PublicFormat.SubjectPublicKeyInfo
            path.write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
        with pytest.raises(KeyFileError, match=r"key\.pem"):
            Bundle.open(signed, [keys.public, path])

    def test_a_file_of_two_keys_is_refused(
        self, signed: Path, keys: Keys, make: Callable[[str], Keys], tmp_path: Path
    ) -> None:
        """Only the first of them would count. Each file alone is used, and so are both files together."""
        other = make("other")
        both = Keys(tmp_path / "both.pem", tmp_path / "both.pub.pem")
        for part in range(2):
            both[part].write_bytes(other[part].read_bytes() + keys[part].read_bytes())
        with pytest.raises(KeyFileError, match=r"both\.pub\.pem.*it holds 2 keys; write each into a file of its own"):
            Bundle.open(signed, [both.public])
        with pytest.raises(KeyFileError, match=r"both\.pem.*it holds 2 keys"):
            Bundle.open(signed).sign(both.private)
        Bundle.open(signed, [other.public, keys.public])

    @pytest.mark.parametrize(("kind", "why"), [("absent", "cannot be read"), ("public", "it is a public key")])
    def test_what_is_no_private_key_is_named(
        self, bundle_path: Path, keys: Keys, tmp_path: Path, kind: str, why: str
    ) -> None:
        """The error names the file, and no signature is written."""
        path = keys.public if kind == "public" else tmp_path / "absent.pem"
        with pytest.raises(KeyFileError, match=f"{path.name}.*{why}"):
            Bundle.open(bundle_path).sign(path)
        assert not (bundle_path / SIGNATURE).exists()


@pytest.mark.parametrize("point", WEAK_POINTS, ids=bytes.hex)
def test_a_key_that_anyone_could_sign_for_is_refused(signed: Path, tmp_path: Path, point: bytes) -> None:
    """A point of small order, or a second form of a point: with it, one signature fits many messages."""
    (tmp_path / "weak.pem").write_bytes(public_pem(point))
    with pytest.raises(KeyFileError, match=r"weak\.pem' cannot be used \(anyone could sign for it"):
        Bundle.open(signed, [tmp_path / "weak.pem"])


def test_a_signature_under_a_weak_key_fits_any_message() -> None:
    """That is what the refusal is for: the mathematics accepts it."""
    one = (1).to_bytes(32, "little")
    assert one in WEAK_POINTS
    ed25519.Ed25519PublicKey.from_public_bytes(one).verify(one + bytes(32), b"anything")


def test_without_cryptography_only_signatures_are_missing(signed: Path, keys: Keys) -> None:
    """Without the extra, bundles open without keys. With keys, the error names the extra; the check is not skipped."""
    code = f"""if True:
        import sys
        sys.modules["cryptography"] = None
        from msr_runtime import Bundle
        Bundle.open({str(signed)!r})
        Bundle.open({str(signed)!r}, [{str(keys.public)!r}])
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'ImportError: signatures need cryptography: pip install "msr-runtime[sign]"' in done.stderr
