"""A signed folder: every file as it was, no other, and the key's. Or a sentence that names the file."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from robustmdiff.refusal import Refusal
from robustmdiff.runtime.signature import SIGNATURE, check_key, sign, verify


def written(path: Path, key, password: bytes | None = None) -> Path:
    """A private key as PEM, and beside it the public one (.pub)."""
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(pem, pkcs8, locked))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    written(folder / "ours", ec.generate_private_key(ec.SECP256R1()))
    written(folder / "theirs", ec.generate_private_key(ec.SECP256R1()))
    written(folder / "locked", ec.generate_private_key(ec.SECP256R1()), b"secret")
    written(folder / "rsa", rsa.generate_private_key(65537, 2048))
    written(folder / "odd", ec.generate_private_key(ec.SECP256K1()))
    (folder / "text").write_bytes(b"no key")
    return folder


@pytest.fixture
def signed(tmp_path, keys) -> Path:
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(bytes(range(256)))
    (folder / "manifest.json").write_bytes(b"{}")
    sign(folder, keys / "ours")
    return folder


def test_it_is_verified_without_a_network_wherever_it_lies(signed, keys, tmp_path, monkeypatch):
    def refuse(*a, **k):
        raise AssertionError("it went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    verify(signed, keys / "ours.pub")
    verify(Path(shutil.copytree(signed, tmp_path / "elsewhere")), keys / "ours.pub")
    monkeypatch.chdir(tmp_path)
    verify(Path("elsewhere"), keys / "ours.pub")
    sign(Path("elsewhere"), keys / "theirs")
    verify(tmp_path / "elsewhere", keys / "theirs.pub")
    monkeypatch.chdir("elsewhere")
    verify(Path("."), keys / "theirs.pub")


def test_the_tool_of_its_authors_agrees(signed, keys):
    command = [
        sys.executable,
        "-m",
        "model_signing",
        "verify",
        "key",
        signed,
        "--signature",
        signed / SIGNATURE,
    ]
    command += ["--public_key", keys / "ours.pub"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (lambda f: (f / "model.onnx").write_bytes(b"other"), r"model\.onnx: is not the file that was signed"),
        (
            lambda f: (f / "manifest.json").write_bytes(b"[]"),
            r"manifest\.json: is not the file that was signed",
        ),
        (lambda f: (f / "model.onnx").unlink(), r"model\.onnx: is gone"),
        (lambda f: (f / "more").write_bytes(b""), "more: was not signed"),
        (lambda f: (f / "link").symlink_to("model.onnx"), "link' because it is a symlink"),
        (lambda f: (f / SIGNATURE).unlink(), r"model\.sig: is not there"),
    ],
    ids=["altered", "manifest", "lost", "added", "link", "unsigned"],
)
def test_what_is_not_as_it_was_is_refused_by_name(signed, keys, alter, said):
    alter(signed)
    with pytest.raises(Refusal, match=said):
        verify(signed, keys / "ours.pub")


def test_each_file_is_named(signed, keys):
    (signed / "model.onnx").write_bytes(b"")
    (signed / "more").write_bytes(b"")
    with pytest.raises(Refusal) as refused:
        verify(signed, keys / "ours.pub")
    assert [sentence.partition(":")[0] for sentence in refused.value.args] == [
        str(signed / "model.onnx"),
        str(signed / "more"),
    ]


def test_a_signature_of_another_is_refused(signed, keys):
    with pytest.raises(Refusal, match=r"model\.sig: does not vouch for this folder with theirs\.pub"):
        verify(signed, keys / "theirs.pub")
    sign(signed, keys / "theirs")  # after which whoever trusts ours is told
    with pytest.raises(Refusal, match="does not vouch for this folder with ours"):
        verify(signed, keys / "ours.pub")
    verify(signed, keys / "theirs.pub")


def test_a_signature_that_was_altered_is_refused(signed, keys):
    path = signed / SIGNATURE
    whole = path.read_bytes()
    bundle = json.loads(whole)
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = "A" + bundle["dsseEnvelope"]["signatures"][0]["sig"][1:]
    for other in (b"", b"{}", b"[]", b"\xff", whole[:-50], json.dumps(bundle).encode()):
        path.write_bytes(other)
        with pytest.raises(Refusal, match=r"model\.sig: does not vouch"):
            verify(signed, keys / "ours.pub")


def test_a_signature_made_of_another_folder_does_not_fit(signed, keys, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.onnx").write_bytes(b"other weights")
    sign(other, keys / "ours")
    shutil.copy(other / SIGNATURE, signed / SIGNATURE)
    with pytest.raises(Refusal, match=r"manifest\.json: was not signed"):
        verify(signed, keys / "ours.pub")


@pytest.mark.parametrize("name", ["text", "ours.pub", "locked", "rsa", "odd"])
def test_what_is_no_key_to_sign_with(keys, name):
    with pytest.raises(Refusal, match=rf"{name}: is no private key to sign with"):
        check_key(keys / name)


@pytest.mark.parametrize("name", ["text", "ours", "rsa.pub", "odd.pub"])
def test_what_is_no_key_to_verify_with(signed, keys, name):
    with pytest.raises(Refusal, match=rf"{name}: is no public key"):
        verify(signed, keys / name)


def test_without_the_package_the_sentence_says_what_to_install(signed, keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(Refusal, match=r"robustmdiff\[sign\]"):
        verify(signed, keys / "ours.pub")
    with pytest.raises(Refusal, match=r"robustmdiff\[sign\]"):
        check_key(keys / "ours")
