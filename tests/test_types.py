"""The package ships its types: a project that imports it is checked against them."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONSUMER = """\
from robustmdiff import Predictor, RobustMDiffClassifier

reveal_type(Predictor.from_pretrained("runs/demo").task.classes)
RobustMDiffClassifier(epochs="many")
"""


def install(site: Path, scratch: Path) -> None:
    """The package's Python files as a wheel has them."""
    built = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", scratch, "build_py"]
    subprocess.run([*built, "--build-lib", site], cwd=ROOT, check=True, capture_output=True)


def test_what_is_installed_says_that_it_has_types(tmp_path):
    install(tmp_path / "site", tmp_path)
    assert (tmp_path / "site" / "robustmdiff" / "py.typed").exists()


@pytest.mark.slow
def test_a_project_that_imports_it_sees_its_types(tmp_path):
    """In an environment that has nothing else: quick, and enough."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    site = sysconfig.get_path("purelib", "venv", {"base": environment, "platbase": environment})
    install(Path(site), tmp_path)
    (tmp_path / "consumer.py").write_text(CONSUMER, encoding="utf-8")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--python-executable", environment / "bin" / "python", "consumer.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert checked.stderr == ""
    assert 'note: Revealed type is "tuple[str, ...]"' in checked.stdout.replace("builtins.", "")
    assert 'Argument "epochs" to "RobustMDiffClassifier" has incompatible type "str"' in checked.stdout
    assert "Found 1 error in 1 file" in checked.stdout
