"""What `robustmdiff serve` refuses before it loads anything, and what it serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustmdiff.cli.serve import NEEDED, serve
from robustmdiff.experiment.run import digest
from robustmdiff.export.card import CARD, check_made_of
from robustmdiff.refusal import Refusal

NOWHERE = [Path("nowhere")]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "ward.example"])
def test_an_address_that_others_reach_needs_tokens(host):
    with pytest.raises(Refusal, match=f"--host is {host} without --token-file"):
        serve(NOWHERE, host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_one_of_this_machine_does_not(host):
    with pytest.raises(Refusal, match="nowhere: holds no exported model"):
        serve(NOWHERE, host=host)


@pytest.mark.parametrize("half", ["certificate", "key"])
def test_a_certificate_and_its_key_go_together(half):
    with pytest.raises(Refusal, match="--certificate and --key go together"):
        serve(NOWHERE, **{half: Path("x.pem")})


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr("robustmdiff.cli.serve.find_spec", lambda name: None)
    with pytest.raises(Refusal, match=r"fastapi, uvicorn, .*robustmdiff\[serve\]"):
        serve(NOWHERE)


def test_a_run_needs_torch(monkeypatch):
    there = {*NEEDED}
    monkeypatch.setattr("robustmdiff.cli.serve.find_spec", lambda name: name if name in there else None)
    with pytest.raises(Refusal, match=r"--run is run and needs torch and captum.*robustmdiff\[train\]"):
        serve(NOWHERE, run=Path("run"))


def test_a_generator_needs_torch(monkeypatch):
    there = {*NEEDED}
    monkeypatch.setattr("robustmdiff.cli.serve.find_spec", lambda name: name if name in there else None)
    with pytest.raises(
        Refusal, match=r"--generator is run and needs torch and safetensors.*robustmdiff\[train\]"
    ):
        serve(NOWHERE, generator=Path("run"))


@pytest.mark.parametrize("written", ["{}", '{"sha256": {"run": "0123456789abcdef"}}', None])
def test_a_folder_is_explained_by_the_run_that_it_was_exported_from_alone(tmp_path, written):
    run, folder = tmp_path / "run", tmp_path / "exported"
    (run / "model").mkdir(parents=True)
    (run / "model" / "model.safetensors").write_bytes(b"weights")
    folder.mkdir()
    if written is not None:
        (folder / CARD).write_text(written, encoding="utf-8")
    expected = (
        "is not the run that .*exported was" if written and "run" in written else "does not say of which"
    )
    with pytest.raises(Refusal, match=expected):
        check_made_of(folder, run)
    (folder / CARD).write_text(json.dumps({"sha256": {"run": digest(run)}}), encoding="utf-8")
    check_made_of(folder, run)
