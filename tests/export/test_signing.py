"""Who made an export: signed by the key, and nothing of it run where it was not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from keras_transfer import cli
from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from keras_transfer.export import bundle, export_run, proof, signing, verify


def write_keys(folder: Path, name: str, key=None, password: bytes | None = None):
    """A key pair as PEM files: the private one's path, the public one's."""
    key = key or ed25519.Ed25519PrivateKey.generate()
    hidden = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private, public = folder / f"{name}.pem", folder / f"{name}-public.pem"
    private.write_bytes(key.private_bytes(pem, pkcs8, hidden))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, spki))
    return private, public


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path, "key")


@pytest.fixture
def signed(exported, keys, tmp_path):
    folder = shutil.copytree(exported.path, tmp_path / "signed")
    signing.sign(folder, signing.read_private_key(keys[0]))
    return folder


def test_a_signed_export_is_verified_by_the_key_and_openssl(run, quick, keys, tmp_path, capsys):
    private, public = keys
    folder = tmp_path / "export"
    words = ["export", str(run.path), "--formats", "tflite", "--output", str(folder)]
    assert cli.main([*words, "--sign", str(private)]) == 0
    assert cli.main(["verify", str(folder), "--key", str(public)]) == 0
    assert cli.main(["verify", str(folder)]) == 0  # its signature is no foreign file
    if shutil.which("openssl"):
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin"]
        command += ["-in", folder / "manifest.json", "-sigfile", folder / "manifest.sig"]
        said = subprocess.run(command, check=False, capture_output=True, text=True)
        assert (said.returncode, said.stdout.strip()) == (0, "Signature Verified Successfully")
    assert cli.main([*words, "--overwrite"]) == 0  # nor is it when the export is replaced
    capsys.readouterr()
    assert cli.main(["verify", str(folder), "--key", str(public)]) == 1
    assert "manifest.sig: missing" in capsys.readouterr().out


def forge(folder: Path) -> None:
    """Swaps two labels and writes all digests anew, as who cannot sign would."""
    first, second, *rest = (folder / "labels.txt").read_text().splitlines()
    names = [second, first, *rest]
    (folder / "labels.txt").write_text("\n".join(names) + "\n")
    expected = json.loads((folder / "verify/expected.json").read_text())
    files.write_json(folder / "verify/expected.json", expected | {"class_names": names})
    kept = (folder / "manifest.sig").read_bytes()
    (folder / "manifest.sig").unlink()
    bundle.write_manifest(folder)
    (folder / "manifest.sig").write_bytes(kept)


@pytest.mark.parametrize("how", ["forged", "another key", "cut", "unsigned"])
def test_what_was_not_signed_by_the_key_fails_and_is_not_run(
    signed, keys, tmp_path, monkeypatch, how
):
    public = keys[1]
    if how == "forged":
        forge(signed)
    elif how == "another key":
        _, public = write_keys(tmp_path, "other")
    elif how == "cut":
        (signed / "manifest.sig").write_bytes((signed / "manifest.sig").read_bytes()[:-1])
    else:
        (signed / "manifest.sig").unlink()
    monkeypatch.setattr(proof, "run_fresh", lambda *job, **more: pytest.fail("it was run"))
    result = verify(signed, public)
    assert not result.passed
    assert result.result["exit_code"] == 1
    assert [line.split(":")[0] for line in result.result["files"]] == ["manifest.sig"]


@pytest.mark.slow
def test_a_changed_file_of_a_signed_export_fails(signed, keys):
    with open(signed / "model.tflite", "ab") as stream:
        stream.write(b"0")
    result = verify(signed, keys[1])
    assert not result.passed
    assert any(line.startswith("model.tflite: changed") for line in result.result["files"])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "cannot be read"),
        ("text", "is not such a key"),
        ("encrypted", "is encrypted"),
        ("rsa", "another kind"),
        ("public", "is not such a key"),
    ],
)
def test_bad_keys_are_refused_before_any_work(run, tmp_path, monkeypatch, how, says):
    key = tmp_path / "bad.pem"
    if how == "text":
        key.write_text("not a key")
    elif how == "encrypted":
        key, _ = write_keys(tmp_path, "hidden", password=b"secret")
    elif how == "rsa":
        key, _ = write_keys(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    elif how == "public":
        _, key = write_keys(tmp_path, "key")
    with pytest.raises(UsageError, match=says) as refused:
        export_run(run, "tflite", tmp_path / "export", sign=key)
    assert str(key) in str(refused.value)
    assert "openssl genpkey" in refused.value.remedy
    assert not (tmp_path / "export").exists()


def test_without_cryptography_the_remedy_is_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(UsageError, match="not installed") as refused:
        signing.read_public_key(tmp_path / "key.pem")
    assert "keras-transfer[sign]" in refused.value.remedy
