"""`msr keygen`, `msr sign` and `msr verify` as a user runs them, and the option --key of other commands."""

import numpy as np
import pytest

from msr_runtime import Bundle
from msr_runtime.recording.recorder import Recorder


class TestSigning:
    def test_from_key_to_verified_bundle(self, bundle_path, tmp_path, capsys, msr) -> None:
        """`verify` finds the fingerprint that `keygen` printed in a bundle that `sign` signed."""
        private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
        assert msr("keygen", private) == 0
        fingerprint = capsys.readouterr().out.split()[1]
        assert msr("verify", bundle_path) == 0
        assert "signature  none" in capsys.readouterr().out
        assert msr("sign", bundle_path, "--key", private) == 0
        assert msr("info", bundle_path) == 0
        assert "Ed25519" in capsys.readouterr().out
        assert msr("verify", bundle_path) == 0
        assert "not checked" in capsys.readouterr().out
        assert msr("verify", bundle_path, "--key", public) == 0
        assert f"by key {fingerprint}" in capsys.readouterr().out

    @pytest.mark.parametrize("fault", ["unsigned", "foreign", "damaged"])
    def test_failed_check(self, fault, bundle_path, tmp_path, capsys, refusal, msr) -> None:
        """An unsigned bundle, a foreign signature and a damaged file exit with 1 and one sentence."""
        for name in ("key", "other"):
            assert msr("keygen", tmp_path / f"{name}.pem") == 0
        if fault != "unsigned":
            assert msr("sign", bundle_path, "--key", tmp_path / "key.pem") == 0
        if fault == "damaged":
            (bundle_path / "adapt.onnx").write_bytes(b"x")
        capsys.readouterr()
        key = tmp_path / ("other.pub.pem" if fault == "foreign" else "key.pub.pem")
        assert msr("verify", bundle_path, "--key", key) == 1
        assert {"unsigned": "not signed", "foreign": "none of the 1 trusted keys", "damaged": "adapt.onnx"}[
            fault
        ] in refusal()

    @pytest.mark.parametrize("command", ["adapt", "bench", "replay", "serve", "evaluate"])
    def test_commands_that_run_a_bundle_can_want_a_signature(
        self, command, bundle_path, tmp_path, capsys, refusal, msr
    ) -> None:
        """With --key, an unsigned bundle is refused before it runs."""
        assert msr("keygen", tmp_path / "key.pem") == 0
        capsys.readouterr()
        np.savez(tmp_path / "a.npz", support_x=np.zeros((2, 3)), support_y=np.zeros((2, 2)))
        with Recorder(tmp_path / "a.mcap", Bundle.open(bundle_path)):
            pass
        arguments = {
            "adapt": [bundle_path, tmp_path / "a.npz"],
            "bench": [bundle_path],
            "replay": [tmp_path / "a.mcap", bundle_path],
            "serve": [bundle_path, "--port", 0],
            "evaluate": [bundle_path],
        }[command]
        assert msr(command, *arguments, "--key", tmp_path / "key.pub.pem") == 2
        assert "is not signed" in refusal()

    @pytest.mark.parametrize("key", [[], [""]], ids=["nothing", "empty"])
    @pytest.mark.parametrize("command", ["verify", "adapt", "bench", "replay", "serve", "evaluate"])
    def test_key_without_a_file_is_an_error(self, command, key, bundle_path, tmp_path, capsys, msr) -> None:
        """As after `--key $KEY` with an empty variable. It never switches the check off."""
        first = {"adapt": [bundle_path, tmp_path / "a.npz"], "replay": [tmp_path / "a.mcap", bundle_path]}
        assert msr(command, *first.get(command, [bundle_path]), "--key", *key) == 2
        out, err = capsys.readouterr()
        assert "at least one public key is wanted" in " ".join((out + err).replace("│", " ").split())

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["verify", "absent"], "'absent' is not a folder"),
            (["verify", "bundle", "--key", "absent.pem"], "absent.pem"),
            (["sign", "bundle", "--key", "absent.pem"], "absent.pem"),
            (["sign", "absent", "--key", "key.pem"], "'absent' is not a folder"),
            (["keygen", "key.pem"], "'key.pem' exists"),
            (["evaluate", "absent", "--key", "key.pub.pem"], "only bundles are signed"),
        ],
    )
    def test_wrong_input(self, arguments, named, bundle_path, tmp_path, monkeypatch, capsys, refusal, msr) -> None:
        """A missing folder, a missing key, and a key file that would be overwritten are refused."""
        monkeypatch.chdir(tmp_path)
        assert msr("keygen", "key.pem") == 0
        capsys.readouterr()
        assert msr(*arguments) == 2
        assert named in refusal()
