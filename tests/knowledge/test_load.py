"""One door takes every source, says what it cannot take, and costs nothing to stand before."""

from __future__ import annotations

import gzip
import subprocess
import sys

import pytest

from robustmdiff.knowledge import OntologyError, load_concepts, save_concepts

OBO = "[Term]\nid: X:1\nname: one\n\n[Term]\nid: X:2\nname: two\nis_a: X:1\n"
HIERARCHY = "id\tlabel\tsubClassOf\nDOID:1\tone\tdisease\n"
DISORDERS = "orphacode\tlabel\tdefinition\n10\tten\tA disease.\n"


def test_every_source_is_told_by_what_is_given(tmp_path):
    (tmp_path / "a.obo").write_text(OBO)
    (tmp_path / "b.obo.gz").write_bytes(gzip.compress(OBO.encode()))
    for name, table, text in (
        ("do", "DO_HumanDO.tsv", HIERARCHY),
        ("orpha", "orpha_disorders.tsv", DISORDERS),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / table).write_text(text)
    assert load_concepts(tmp_path / "a.obo").id == ("X:1", "X:2")
    assert load_concepts(str(tmp_path / "b.obo.gz")).id == ("X:1", "X:2")
    assert load_concepts(tmp_path / "do").id == ("DOID:4", "DOID:1")
    assert load_concepts(tmp_path / "do" / "DO_HumanDO.tsv").id == ("DOID:4", "DOID:1")
    assert load_concepts(tmp_path / "orpha").id == ("ORPHA:10",)
    save_concepts(load_concepts(tmp_path / "orpha"), tmp_path / "c.npz")
    assert load_concepts(tmp_path / "c.npz").id == ("ORPHA:10",)


def test_a_folder_of_two_sources_asks_which_and_a_main_table_answers(tmp_path):
    (tmp_path / "DO_HumanDO.tsv").write_text(HIERARCHY)
    (tmp_path / "orpha_disorders.tsv.gz").write_bytes(gzip.compress(DISORDERS.encode()))
    with pytest.raises(OntologyError, match=r"both DO_HumanDO\.tsv and orpha_disorders.tsv: name the one"):
        load_concepts(tmp_path)
    assert load_concepts(tmp_path / "orpha_disorders.tsv.gz").id == ("ORPHA:10",)


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(OntologyError, match="the folder holds none of DO_HumanDO"):
        load_concepts(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder, and not 'icd10cm'"):
        load_concepts(tmp_path / "none.obo")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(OntologyError, match=r"notes\.txt: not an OBO file, a saved table"):
        load_concepts(tmp_path / "notes.txt")


def test_without_its_package_icd10cm_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "simple_icd_10_cm", None)
    with pytest.raises(ImportError, match="pip install simple-icd-10-cm"):
        load_concepts()


def test_the_package_imports_numpy_and_the_standard_library_only():
    """In a fresh interpreter, with the packages above it (which import torch) left unexecuted."""
    code = """
import importlib.util, sys, types
root = importlib.util.find_spec("robustmdiff").submodule_search_locations
package = types.ModuleType("robustmdiff"); package.__path__ = list(root)
sys.modules["robustmdiff"] = package
import robustmdiff.knowledge
tops = {name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)}
# What the interpreter itself brings with an editable install is not ours.
print(sorted(t for t in tops - set(sys.stdlib_module_names) if not t.startswith("_")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['numpy', 'robustmdiff']"
