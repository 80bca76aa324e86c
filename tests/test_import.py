"""What `import robustmdiff` costs and pulls in, measured in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("transformers", "diffusers", "matplotlib", "sklearn", "accelerate", "pydantic", "typer", "pandas")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_import_pulls_in_nothing_heavy():
    found = run(
        "import sys, robustmdiff, robustmdiff.ops, robustmdiff.nn, robustmdiff.data, robustmdiff.knowledge\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    assert found.split() == []


def test_the_import_costs_at_most_300_ms_over_torch():
    """CPU time, the best of a few: other processes on the machine do not count."""
    code = "import time, torch; t = time.process_time(); import robustmdiff; print(time.process_time() - t)"
    assert min(float(run(code)) for _ in range(3)) <= 0.3


def test_public_names_are_there():
    import robustmdiff

    for name in robustmdiff.__all__:
        assert getattr(robustmdiff, name) is not None
