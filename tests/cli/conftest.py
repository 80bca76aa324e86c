"""The command line in this process."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest

from robustmdiff.cli import main as cli
from tests.cli.said import Said


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    return os.environ | {"RMD_CACHE": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def say(environment) -> Callable[..., Said]:
    """Runs `robustmdiff ARGUMENTS` in this process."""

    def run(*arguments: object) -> Said:
        out, err, code = StringIO(), StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setenv("RMD_CACHE", environment["RMD_CACHE"])
            patch.setattr(sys, "argv", ["robustmdiff", *map(str, arguments)])
            patch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main changes it
            try:
                cli.main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
        return Said(code, out.getvalue(), err.getvalue())

    return run
