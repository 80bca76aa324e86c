"""A machine that is not set to UTF-8, whose user has no home that can be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustmdiff.data.tables.read import read_table

BARE = {  # in the C locale Python helps itself, so it is told not to
    "PATH": os.environ["PATH"],
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "HOME": "/proc/nowhere",
    "OMP_NUM_THREADS": "1",
}
TINY = ("epochs=1", *(f"model.{size}" for size in ("d_h=8", "heads=2", "layers=1", "width=12", "draws=2")))
ONE_AFTER_ANOTHER = """
import json, sys
from robustmdiff.cli import main as cli
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["robustmdiff", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        print("ended with", end.code)
"""


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    """Patients whose names, classes and notes are not ASCII."""
    root = tmp_path_factory.mktemp("patients")
    task = {"modalities": [{"name": "notes", "kind": "text"}], "classes": ["肺炎", "santé"]}
    (root / "task.json").write_text(json.dumps(task, ensure_ascii=False), encoding="utf-8")
    rows = [f"患者{i},{task['classes'][i % 2]},發燒 {'≥' if i % 2 else '±'}38 °C [SEP]" for i in range(40)]
    (root / "patients.csv").write_text("\n".join(["id,label,notes", *rows]) + "\n", encoding="utf-8")
    return root


def test_every_command_works_there(patients):
    """One process for all of them: to start each anew takes most of the time."""
    run, table, page = patients / "run", patients / "predictions.csv", patients / "page.html"
    settings = [word for size in TINY for word in ("--set", size)]
    commands = [
        ["train", "--data", "folder", "--root", patients, "--out", run, *settings],
        ["predict", run, "--out", table],
        ["predict", run],
        ["evaluate", run, "--draws", "2", "--replicates", "10"],
        ["explain", run, "--out", page, "--draws", "2"],
        ["cohort", "--patients", "2"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(commands, default=str)],
        env=BARE,
        capture_output=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode("ascii")
    assert shown.count("ended with 0") == len(commands), done.stderr

    rows = list(read_table(table, ["patient", "class"]))
    assert {row.cells["class"] for row in rows} == {"肺炎", "santé"}
    assert all(row.cells["patient"].startswith("患者") for row in rows)
    assert rows[0].cells["patient"].encode("ascii", "backslashreplace").decode() in shown  # by `predict`
    assert "肺炎" in page.read_text(encoding="utf-8")
    assert not (run / "evaluation" / "report.md").read_text(encoding="utf-8").isascii()
    assert b"warning: /proc/nowhere/.cache/robustmdiff: cannot be written" in done.stderr


def test_a_file_that_cannot_be_named_there_is_told():
    code = """
import sys
from pathlib import Path
from robustmdiff.cli import main as cli
from robustmdiff.cli import info
info.describe_run = lambda run: Path(chr(0x60A3)).stat()
sys.argv = ["robustmdiff", "info", "run"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], env=BARE, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.decode("ascii").splitlines()[-1] == (
        "error: \\u60a3: cannot be named here, where names are ascii, expected a machine set to UTF-8 "
        "(PYTHONUTF8=1)"
    )
