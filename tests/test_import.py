"""What `import robustmdiff` pulls in, and what data needs, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

HEAVY = ("transformers", "diffusers", "matplotlib", "sklearn", "accelerate", "pydantic", "typer", "pandas")
DATA = sorted(
    ".".join(path.relative_to(Path(__file__).parents[1]).with_suffix("").parts).removesuffix(".__init__")
    for path in (Path(__file__).parents[1] / "robustmdiff" / "data").rglob("*.py")
    if path.stem != "__main__"
)
WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

sys.meta_path.insert(0, Absent())
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_itself_is_no_more_than_names():
    found = run(
        "import sys, robustmdiff\n"
        "print(*[name for name in ('torch', 'numpy') if name in sys.modules])\n"
        "print(*dir(robustmdiff))"
    )
    loaded, names = found.split("\n")[:2]
    assert loaded == ""
    import robustmdiff

    assert set(robustmdiff.__all__) <= set(names.split())


def test_the_layers_pull_in_nothing_heavy():
    found = run(
        "import sys, robustmdiff.ops, robustmdiff.nn, robustmdiff.data, robustmdiff.knowledge\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    assert found.split() == []


def test_every_module_of_data_is_imported_without_torch():
    assert len(DATA) > 40
    run(f"{WITHOUT_TORCH}\nimport importlib\nfor name in {DATA}: importlib.import_module(name)")


def test_a_folder_becomes_a_batch_without_torch(tmp_path):
    code = f"""{WITHOUT_TORCH}
from robustmdiff.data.collate import Collator
from robustmdiff.data.sources.folder import load_folder, write_template
from robustmdiff.data.tokenizer import train_tokenizer

write_template({str(tmp_path / "mydata")!r})
patients, task = load_folder({str(tmp_path / "mydata")!r})
batch = Collator(task, train_tokenizer(["cough"]))(patients)
print(batch.presence.tolist(), type(batch.inputs["xray"].pixels).__name__)
"""
    presence = [[True, True, True], [False, True, True], [True, False, True]]
    assert run(code).strip() == f"{presence} ndarray"


def test_no_module_needs_itself():
    """Not through others either, for a type, or inside a function."""
    graph = grimp.build_graph("robustmdiff", cache_dir=None)
    needed = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    TopologicalSorter(needed).prepare()  # CycleError otherwise


def test_public_names_are_there():
    import robustmdiff

    for name in robustmdiff.__all__:
        assert getattr(robustmdiff, name) is not None
    with pytest.raises(AttributeError, match="module 'robustmdiff' has no attribute 'Predictr'"):
        _ = robustmdiff.Predictr
