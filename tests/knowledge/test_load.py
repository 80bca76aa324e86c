"""One door takes every source, says what it cannot take, and costs nothing to stand before."""

from __future__ import annotations

import gzip
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from robustmdiff.knowledge import OntologyError, load_concepts, save_concepts

OBO = "[Term]\nid: X:1\nname: one\n\n[Term]\nid: X:2\nname: two\nis_a: X:1\n"
HIERARCHY = "id\tlabel\tsubClassOf\nDOID:1\tone\tdisease\n"
DISORDERS = "orphacode\tlabel\tdefinition\n10\tten\tA disease.\n"


@pytest.mark.filterwarnings("ignore:.*the concepts are without")
def test_every_source_is_told_by_what_is_given(tmp_path):
    (tmp_path / "a.obo").write_text(OBO, encoding="utf-8")
    (tmp_path / "b.obo.gz").write_bytes(gzip.compress(OBO.encode()))
    for name, table, text in (
        ("do", "DO_HumanDO.tsv", HIERARCHY),
        ("orpha", "orpha_disorders.tsv", DISORDERS),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / table).write_text(text, encoding="utf-8")
    assert load_concepts(tmp_path / "a.obo").id == ("X:1", "X:2")
    assert load_concepts(str(tmp_path / "b.obo.gz")).id == ("X:1", "X:2")
    assert load_concepts(tmp_path / "do").id == ("DOID:4", "DOID:1")
    assert load_concepts(tmp_path / "do" / "DO_HumanDO.tsv").id == ("DOID:4", "DOID:1")
    assert load_concepts(tmp_path / "orpha").id == ("ORPHA:10",)
    save_concepts(load_concepts(tmp_path / "orpha"), tmp_path / "c.npz")
    assert load_concepts(tmp_path / "c.npz").id == ("ORPHA:10",)


@pytest.mark.filterwarnings("ignore:.*the concepts are without")
def test_a_folder_of_two_sources_asks_which_and_a_main_table_answers(tmp_path):
    (tmp_path / "DO_HumanDO.tsv").write_text(HIERARCHY, encoding="utf-8")
    (tmp_path / "orpha_disorders.tsv.gz").write_bytes(gzip.compress(DISORDERS.encode()))
    with pytest.raises(OntologyError, match=r"both DO_HumanDO\.tsv and orpha_disorders.tsv: name the one"):
        load_concepts(tmp_path)
    assert load_concepts(tmp_path / "orpha_disorders.tsv.gz").id == ("ORPHA:10",)


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(OntologyError, match="the folder holds none of DO_HumanDO"):
        load_concepts(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder, and not 'icd10cm'"):
        load_concepts(tmp_path / "none.obo")
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(OntologyError, match=r"notes\.txt: not an OBO file, a saved table"):
        load_concepts(tmp_path / "notes.txt")


HPO = "[Term]\nid: HP:1\nname: root\n\n[Term]\nid: HP:2\nname: fever\nis_a: HP:1\n"
ANNOTATIONS = "#version: 1\nOMIM:1\tone\t\tHP:2\tPMID:1\tPCS\t\t3/4\t\t\tP\tHPO:x\n"
SYMPTOMS = "disease_id\tdisease_label\tsymptom_id\tsymptom_label\nDOID:1\tone\tSYMP:1\tcough\n"
XREFS = "id\tlabel\txrefs\nDOID:1\tone\tMIM:1, MIM:2\n"


def fill(folder: Path, files: dict[str, str], pack: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        if pack:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(
    "prefixes", [("", "", ""), ("DO_", "DO_", "DO_"), ("", "DO_", ""), ("DO_", "", "DO_")], ids="-".join
)
def test_the_disease_ontology_is_read_under_its_own_names(tmp_path, prefixes, pack):
    names = zip(prefixes, ("HumanDO.tsv", "disease-symptom.tsv", "OMIMinDO.tsv"), strict=True)
    files = dict(zip(map("".join, names), (HIERARCHY, SYMPTOMS, XREFS), strict=True))
    folder = fill(tmp_path / "do", files, pack)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (folder, *folder.iterdir()):
            concepts = load_concepts(source)
            assert concepts.id == ("DOID:4", "DOID:1", "SYMP:1")
            assert concepts.xrefs == ((), ("MIM:1", "MIM:2"), ())


def test_two_hierarchies_in_one_folder_are_refused(tmp_path):
    fill(tmp_path, {"HumanDO.tsv": HIERARCHY, "DO_HumanDO.tsv": HIERARCHY})
    with pytest.raises(OntologyError, match=r"both HumanDO\.tsv and DO_HumanDO\.tsv are there; keep one"):
        load_concepts(tmp_path)


@pytest.mark.parametrize("obo", ["hp.obo", "hp-base.obo", "hp.obo.gz"])
def test_the_hpo_is_read_with_its_annotations(tmp_path, obo):
    fill(tmp_path, {obo: HPO, "phenotype.hpoa": ANNOTATIONS, "genes_to_phenotype.txt": "gene\tterm\n"})
    for source in (tmp_path, tmp_path / "phenotype.hpoa"):
        concepts = load_concepts(source)
        assert concepts.id == ("HP:1", "HP:2", "OMIM:1")
        assert concepts.frequency[0, 1] == 0.75
    assert load_concepts(tmp_path / obo).id == ("HP:1", "HP:2"), "the OBO file alone is the OBO file alone"


def test_a_source_that_is_half_there_says_what_is_missing(tmp_path):
    half = fill(tmp_path / "obo", {"hp.obo": HPO})
    with pytest.warns(UserWarning, match=r"the concepts are without diseases \(no phenotype\.hpoa\)"):
        assert load_concepts(half).id == ("HP:1", "HP:2")
    half = fill(tmp_path / "annotations", {"phenotype.hpoa": ANNOTATIONS})
    with pytest.raises(FileNotFoundError, match=r"hp\.obo is not there beside phenotype\.hpoa; take both"):
        load_concepts(half / "phenotype.hpoa")
    half = fill(tmp_path / "do", {"disease-symptom.tsv": SYMPTOMS})
    with pytest.raises(FileNotFoundError, match=r"neither DO_HumanDO\.tsv nor HumanDO\.tsv is there"):
        load_concepts(half)
    fill(half, {"HumanDO.tsv": HIERARCHY})
    with pytest.warns(UserWarning, match=r"are without cross-references \(no allXREFinDO\.tsv\)"):
        load_concepts(half)
    half = fill(tmp_path / "orpha", {"orpha_hpo.tsv": "orphacode\thpo_id\thpo_term\tfrequency\n"})
    with pytest.raises(FileNotFoundError, match=r"neither orpha_disorders\.tsv nor orpha_disorders\.tsv\.gz"):
        load_concepts(half)
    fill(half, {"orpha_disorders.tsv": DISORDERS})
    with pytest.warns(
        UserWarning, match=r"parents \(no orpha_parents\.tsv\), prevalence .*, cross-references"
    ):
        load_concepts(half / "orpha_disorders.tsv")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notes.txt", "not an OBO file, a saved table .* expected e.g. hp.obo, phenotype.hpoa, HumanDO.tsv"),
        ("en_product6.xml", "expected e.g. .* en_product1.xml or en_product4.xml"),
        ("genes_to_phenotype.txt", "not an OBO file"),
        ("doid.owl", r"\.owl files are not read: take the \.obo file of the same release"),
        ("hp.json", r"\.json files are not read: take the \.obo file of the same release"),
        ("icd10cm_codes_2026.txt", "is read from its Python package: give 'icd10cm'"),
        ("icd10cm-tabular-2026.xml", "is read from its Python package: give 'icd10cm'"),
    ],
)
def test_a_file_that_is_no_source_says_what_is_expected(tmp_path, name, message):
    fill(tmp_path, {name: "hello"})
    with pytest.raises(OntologyError, match=message) as caught:
        load_concepts(tmp_path / name)
    assert caught.value.path.name == name


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"HumanDO.tsv": HIERARCHY.splitlines()[0]}, r"HumanDO\.tsv: no diseases below the header"),
        ({"orpha_disorders.tsv": DISORDERS.splitlines()[0]}, "no disorders below the header"),
        ({"en_product4.xml": "<JDBOR/>"}, r"en_product4\.xml: no Disorder element"),
        ({"hp.obo": HPO, "phenotype.hpoa": "#version: 1\n"}, r"phenotype\.hpoa: no annotations"),
    ],
    ids=["DO", "Orphanet", "Orphadata", "HPO"],
)
def test_a_file_with_a_header_and_nothing_more_is_refused(tmp_path, files, message):
    with pytest.raises(OntologyError, match=message):
        load_concepts(fill(tmp_path, files))


def test_a_folder_of_three_sources_names_them(tmp_path):
    fill(tmp_path, {"HumanDO.tsv": HIERARCHY, "orpha_disorders.tsv": DISORDERS, "hp.obo": HPO})
    with pytest.raises(
        OntologyError, match=r"holds HumanDO\.tsv, orpha_disorders\.tsv and hp\.obo: name the one"
    ):
        load_concepts(tmp_path)
    assert load_concepts(tmp_path / "hp.obo").id == ("HP:1", "HP:2")


def test_a_folder_of_obo_files_asks_for_one_of_them(tmp_path):
    fill(tmp_path, {"doid.obo": OBO, "HumanDO.obo": OBO})
    with pytest.raises(
        OntologyError, match=r"holds none of .*; of its OBO files name one, e\.g\. HumanDO\.obo"
    ):
        load_concepts(tmp_path)
    assert load_concepts(tmp_path / "HumanDO.obo").id == ("X:1", "X:2")


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
