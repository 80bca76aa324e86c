"""What `robustmdiff serve` refuses before it loads anything, and what it serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustmdiff.cli.serve import serve
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
