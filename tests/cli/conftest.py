"""The command line in this process."""

from __future__ import annotations

import os
import sys
import warnings

import pytest

from robustmdiff.cli import main as cli
from tests.cli.said import Said


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    return os.environ | {"RMD_CACHE": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def say(monkeypatch, capsys, environment):
    """Runs `robustmdiff ARGUMENTS` in this process."""

    def run(*arguments: object) -> Said:
        monkeypatch.setenv("RMD_CACHE", environment["RMD_CACHE"])
        monkeypatch.setattr(sys, "argv", ["robustmdiff", *map(str, arguments)])
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main changes it
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return run
