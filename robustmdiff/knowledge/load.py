"""One door to every source: a concept table from whatever is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from robustmdiff.knowledge import disease_ontology, hpo_annotations, orphanet_files
from robustmdiff.knowledge.archive import read_concepts
from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.knowledge.disease_ontology import read_disease_ontology
from robustmdiff.knowledge.hpo_annotations import read_hpo
from robustmdiff.knowledge.icd10cm import read_icd10cm
from robustmdiff.knowledge.lines import OntologyError, find_file, not_there
from robustmdiff.knowledge.obo import read_obo
from robustmdiff.knowledge.ontology import Ontology
from robustmdiff.knowledge.orphanet import read_orphadata, read_orphanet

# For each source of several files: the names under which they come. The first of them that is in a
# folder tells the source; any of them, given by itself, stands for its folder.
FOLDERS: tuple[tuple[Callable[[str | Path], Ontology], tuple[str, ...]], ...] = (
    (
        read_disease_ontology,
        tuple(name for table in disease_ontology.TABLES for name in (f"DO_{table}", table)),
    ),
    (read_orphanet, tuple(f"orpha_{table}.tsv" for table in orphanet_files.TABLES)),
    (read_orphadata, tuple(orphanet_files.PRODUCTS)),
    (read_hpo, (*hpo_annotations.ANNOTATIONS, *hpo_annotations.ONTOLOGY)),
)
UNKNOWN = (
    "not an OBO file, a saved table (.npz) or a file of a known source; expected e.g. hp.obo, "
    "phenotype.hpoa, HumanDO.tsv, orpha_disorders.tsv, en_product1.xml or en_product4.xml, or 'icd10cm'"
)
INSTEAD = {
    ".owl": "take the .obo file of the same release",
    ".json": "take the .obo file of the same release",
    ".zip": "unpack it first",
}


def load_concepts(source: str | Path = "icd10cm") -> ConceptTable:
    """The concepts of `source`:

    "icd10cm"              ICD-10-CM from its Python package, offline (the default)
    *.obo, *.obo.gz        an OBO file
    *.npz                  a table saved with `save_concepts`
    a folder               of the files of one source under their publishers' names: the Disease
                           Ontology's tables, Orphanet's tables or XML, or the HPO with its
                           annotations; where several sources lie in it, name a file of one of them
                           instead, e.g. HumanDO.tsv or phenotype.hpoa

    Warns of files that are not there and what is missing without them. Raises FileNotFoundError for
    a path that is not there, OntologyError for anything that cannot be read as one of these.
    """
    if source == "icd10cm":
        return read_icd10cm().concepts()
    path = Path(source)
    if not path.exists():
        raise not_there(source, "no such file or folder, and not 'icd10cm'")
    if path.is_dir():
        return _reader_of(path)(path).concepts()
    name = path.name.removesuffix(".gz")
    if name.endswith(".obo"):
        return read_obo(path).concepts()
    if name.endswith(".npz"):
        return read_concepts(path)
    for read, names in FOLDERS:
        if name in names or (name.startswith("en_product3_") and "en_product1.xml" in names):
            return read(path.parent).concepts()
    if name.startswith(("icd10cm_", "icd10cm-")):
        raise OntologyError(path, None, "ICD-10-CM is read from its Python package: give 'icd10cm'")
    if remedy := INSTEAD.get(Path(name).suffix):
        raise OntologyError(path, None, f"{Path(name).suffix} files are not read: {remedy}")
    raise OntologyError(path, None, UNKNOWN)


def _reader_of(folder: Path) -> Callable[[str | Path], Ontology]:
    """The reader of the one source that `folder` holds."""
    found = [
        (read, next(name for name in names if find_file(folder, name)))
        for read, names in FOLDERS
        if find_file(folder, *names)
    ]
    if len(found) > 1:
        *first, last = (name for _, name in found)
        both = "both " if len(first) == 1 else ""
        problem = f"the folder holds {both}{', '.join(first)} and {last}: name the one to read"
        raise OntologyError(folder, None, problem)
    if not found:
        obo = sorted(path.name for end in ("obo", "obo.gz") for path in folder.glob(f"*.{end}"))
        hint = f"; of its OBO files name one, e.g. {obo[0]}" if obo else ""
        names = ", ".join(names[0] for _, names in FOLDERS)
        raise OntologyError(folder, None, f"the folder holds none of {names}{hint}")
    return found[0][0]
