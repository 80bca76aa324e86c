"""Who vouches for an exported folder: a signature over every file in it, made and checked without a network.

The format is that of the OpenSSF's `model-signing`, whose own command checks it as well:

    model_signing verify key FOLDER --signature FOLDER/model.sig --public_key KEY.pub
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustmdiff.refusal import Refusal
from robustmdiff.runtime.manifest import sha256

SIGNATURE = "model.sig"


def sign(folder: Path, key: Path) -> None:
    """Write the signature of all files of the folder as they are now.

    key  a private key of the curve P-256, P-384 or P-521, PEM, not encrypted

    Raises Refusal where model-signing is not installed, and for a key that is none of these.
    """
    config = _signer(key)
    try:
        _all_but_the_signature(config, folder).sign(folder.resolve(), folder / SIGNATURE)
    except ValueError as error:  # of links
        raise Refusal(f"{folder}: cannot be signed ({error})") from error


def check_key(key: Path) -> None:
    """Raises the Refusal of `sign`, before there is anything to sign."""
    _signer(key)


def _signer(key: Path) -> Any:
    try:
        return _model_signing().signing.Config().use_elliptic_key_signer(private_key=key)
    except (ValueError, TypeError, AttributeError) as error:
        raise Refusal(
            f"{key}: is no private key to sign with ({error}), expected an EC key as PEM"
        ) from error


def verify(folder: Path, key: Path) -> None:
    """Raises Refusal, which names the file, unless each file of the folder is as it was signed, there is no
    other, and the signature is of this public key."""
    path = folder / SIGNATURE
    if not path.is_file():
        raise Refusal(f"{path}: is not there, expected the signature of a folder that was signed")
    verifying = _model_signing().verifying
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError, AttributeError) as error:
        raise Refusal(f"{key}: is no public key ({error}), expected that of an EC key as PEM") from error
    try:
        _all_but_the_signature(config, folder).verify(folder.resolve(), path)
    except OSError:
        raise
    except Exception as error:  # of many kinds, as the signature may hold anything
        said = " ".join(str(error).split()) or type(error).__name__
        files = [*_differences(folder)] if "Signature mismatch" in said else []  # the signature is good
        whole = f"{path}: does not vouch for this folder with {key.name} ({said})"
        raise Refusal(*(files or [whole])) from error


def _differences(folder: Path) -> Iterator[str]:
    """A sentence for each file that is not as the signature says: a DSSE envelope around an in-toto
    statement, which lists the files with their SHA-256."""
    path = folder / SIGNATURE
    payload = json.loads(path.read_text(encoding="utf-8"))["dsseEnvelope"]["payload"]
    listed = json.loads(b64decode(payload))["predicate"]["resources"]
    signed = {file["name"]: file["digest"] for file in listed}
    files = (file for file in folder.rglob("*") if file.is_file() and file != path)
    there = {file.relative_to(folder).as_posix(): sha256(file) for file in files}
    for name in sorted(signed.keys() | there.keys()):
        if name not in there:
            yield f"{folder / name}: is gone, expected the file that was signed"
        elif name not in signed:
            yield f"{folder / name}: was not signed, expected no other files than those that were"
        elif signed[name] != there[name]:
            yield f"{folder / name}: is not the file that was signed (SHA-256 {there[name][:12]}...)"


def _all_but_the_signature(config: Any, folder: Path) -> Any:
    """The configuration, for all files of the folder: model-signing tells them apart by whole paths."""
    hashing = _model_signing().hashing.Config()
    ignored = [folder.resolve() / SIGNATURE]
    return config.set_hashing_config(hashing.set_ignored_paths(paths=ignored, ignore_git_paths=False))


def _model_signing() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise Refusal(
            f"signatures need model-signing, expected installed (pip install 'robustmdiff[sign]'): {error}"
        ) from error
    return model_signing
