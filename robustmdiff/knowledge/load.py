"""One door to every source: a concept table from whatever is given."""

from __future__ import annotations

from pathlib import Path

from robustmdiff.knowledge import disease_ontology, orphanet
from robustmdiff.knowledge.archive import read_concepts
from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.knowledge.icd10cm import read_icd10cm
from robustmdiff.knowledge.lines import OntologyError, find_optional_file
from robustmdiff.knowledge.obo import read_obo

FOLDERS = {
    disease_ontology.HIERARCHY: disease_ontology.read_disease_ontology,
    orphanet.DISORDERS: orphanet.read_orphanet,
}


def load_concepts(source: str | Path = "icd10cm") -> ConceptTable:
    """The concepts of `source`:

    "icd10cm"              ICD-10-CM from its Python package, offline (the default)
    *.obo, *.obo.gz        an OBO file
    *.npz                  a table saved with `save_concepts`
    a folder               of Disease Ontology tables or of Orphanet tables; where both lie in it,
                           name the main table instead: DO_HumanDO.tsv.gz or orpha_disorders.tsv.gz

    Raises FileNotFoundError for a path that is not there, OntologyError for anything that cannot
    be read as one of these.
    """
    if source == "icd10cm":
        return read_icd10cm().concepts()
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{source}: no such file or folder, and not 'icd10cm'")
    if path.is_dir():
        tables = [name for name in FOLDERS if find_optional_file(path, name)]
        if len(tables) != 1:
            found = (
                f"both {' and '.join(tables)}: name the one to read"
                if tables
                else f"none of {', '.join(FOLDERS)}"
            )
            raise OntologyError(path, None, f"the folder holds {found}")
        return FOLDERS[tables[0]](path).concepts()
    name = path.name.removesuffix(".gz")
    if name in FOLDERS:
        return FOLDERS[name](path.parent).concepts()
    if name.endswith(".obo"):
        return read_obo(path).concepts()
    if name.endswith(".npz"):
        return read_concepts(path)
    raise OntologyError(path, None, "not an OBO file, a saved table, or the main table of a known source")
