"""Orphanet's statements out of its files: tables orpha_*.tsv, or the XML that orphadata.com publishes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from robustmdiff.knowledge.elements import Element, elements
from robustmdiff.knowledge.lines import OntologyError, find_file, not_there, table_rows


class Row(NamedTuple):
    """What one place of a file says of the disorder `code`."""

    path: Path
    line: int
    code: str
    cells: list[str]


# The tables and their cells. Orphadata alone has synonyms, and disorders that are no longer used
# ("retired") with the codes they moved to.
Tables = Mapping[str, Sequence[Row]]
TABLES = {
    "disorders": ("label", "definition"),
    "parents": ("parent", "parent_label"),
    "prevalence": ("type", "class", "geography"),
    "hpo": ("hpo_id", "hpo_term", "frequency"),
    "xref": ("source", "reference", "relation"),
}

DISORDERS = "orpha_disorders.tsv"
# Orphadata's files, and what each says. Its files on genes, ages and consequences are not read.
PRODUCTS = {
    "en_product1.xml": "definitions, synonyms and cross-references",
    "en_product4.xml": "findings",
    "en_product7.xml": "parents",
    "en_product9_prev.xml": "prevalence",
}
ASSOCIATIONS = {"Preferential parent": "parents", "Moved to": "moved"}
CLASSIFICATIONS = "en_product3_*.xml"


def tsv_rows(folder: str | Path) -> tuple[Tables, dict[str, str]]:
    """The rows of orpha_<table>.tsv, and which optional tables are not there (name, what it says).

    Raises FileNotFoundError without orpha_disorders.tsv.
    """
    if find_file(folder, DISORDERS) is None:
        raise not_there(folder, f"neither {DISORDERS} nor {DISORDERS}.gz is there")
    tables, missing = {}, {}
    for name, columns in TABLES.items():
        path = find_file(folder, f"orpha_{name}.tsv")
        if path is None:
            missing[f"orpha_{name}.tsv"] = {"hpo": "findings", "xref": "cross-references"}.get(name, name)
            continue
        rows = table_rows(path, ("orphacode", *columns))
        tables[name] = [Row(path, line, code, cells) for line, (code, *cells) in rows]
        if name == "disorders" and not tables[name]:
            raise OntologyError(path, None, "no disorders below the header")
    known: set[str] = set()
    for row in tables["disorders"]:
        if row.code in known:
            raise OntologyError(row.path, row.line, f"duplicate orphacode {row.code}")
        known.add(row.code)
    return tables, missing


def xml_rows(folder: str | Path) -> tuple[Tables, dict[str, str]]:
    """The same of Orphadata's XML, and which of PRODUCTS are not there.

    Each product names the disorders that it speaks of, so any of them will do; raises
    FileNotFoundError if there is none. Parents are those of the classifications (en_product3_*.xml)
    where there are any, otherwise the preferential parents of en_product7.xml.
    """
    products = [path for name in PRODUCTS if (path := find_file(folder, name))]
    trees = [path for end in ("", ".gz") for path in sorted(Path(folder).glob(CLASSIFICATIONS + end))]
    if not products:
        raise not_there(folder, f"none of {', '.join(PRODUCTS)} is there, plain or .gz")
    tables: dict[str, list[Row]] = defaultdict(list)
    for path in products:
        before = len(tables["disorders"])
        for disorder in elements(path, "Disorder"):
            _add_disorder(tables, path, disorder)
        if len(tables["disorders"]) == before:
            raise OntologyError(path, None, "no Disorder element; is it a file of Orphadata, and whole?")
    if trees:
        tables["parents"].clear()
    for path in trees:
        for node in elements(path, "ClassificationNode"):
            _add_tree(tables, path, node)
    missing = {name: what for name, what in PRODUCTS.items() if find_file(folder, name) is None}
    if trees:
        missing.pop("en_product7.xml", None)
    return tables, missing


def _add_disorder(tables: dict[str, list[Row]], path: Path, disorder: Element) -> None:
    code = _code(path, disorder)

    def add(table: str, element: Element, *cells: str) -> None:
        tables[table].append(Row(path, element.line, code, list(cells)))

    sections = disorder.all("SummaryInformationList/SummaryInformation/TextSectionList/TextSection")
    definitions = [
        s.text_at("Contents") for s in sections if s.text_at("TextSectionType/Name") == "Definition"
    ]
    add("disorders", disorder, disorder.text_at("Name"), next(iter(definitions), ""))
    for synonym in disorder.all("SynonymList/Synonym"):
        add("synonyms", synonym, synonym.text.strip())
    for flag in disorder.all("DisorderFlagList/DisorderFlag"):
        label = flag.text_at("Label").lower()
        if "obsolete" in label or "deprecated" in label:
            add("retired", flag)
    for xref in disorder.all("ExternalReferenceList/ExternalReference"):
        relation = xref.text_at("DisorderMappingRelation/Name")
        add("xref", xref, xref.text_at("Source"), xref.text_at("Reference"), relation)
    for stated in disorder.all("HPODisorderAssociationList/HPODisorderAssociation"):
        finding = stated.text_at("HPO/HPOId"), stated.text_at("HPO/HPOTerm")
        add("hpo", stated, *finding, stated.text_at("HPOFrequency/Name"))
    for stated in disorder.all("PrevalenceList/Prevalence"):
        what = ("PrevalenceType", "PrevalenceClass", "PrevalenceGeographic")
        add("prevalence", stated, *(stated.text_at(f"{tag}/Name") for tag in what))
    for association in disorder.all("DisorderDisorderAssociationList/DisorderDisorderAssociation"):
        # Where the disorder itself is the target, the other end says the same of itself.
        table = ASSOCIATIONS.get(association.text_at("DisorderDisorderAssociationType/Name"))
        for target in association.all("TargetDisorder"):
            if table and target.children:
                add(table, target, _code(path, target), target.text_at("Name"))


def _add_tree(tables: dict[str, list[Row]], path: Path, root: Element) -> None:
    """Each node of a classification, under its parent."""
    pending: list[tuple[Element, list[str]]] = [(root, [])]
    while pending:
        node, parent = pending.pop()
        for disorder in node.all("Disorder"):
            here = [_code(path, disorder), disorder.text_at("Name")]
            tables["disorders"].append(Row(path, disorder.line, here[0], [here[1], ""]))
            if parent:
                tables["parents"].append(Row(path, disorder.line, here[0], parent))
            pending += [(child, here) for child in node.all("ClassificationNodeChildList/ClassificationNode")]


def _code(path: Path, disorder: Element) -> str:
    code = disorder.text_at("OrphaCode") or disorder.text_at("OrphaNumber")  # so until 2020
    if not code:
        raise OntologyError(path, disorder.line, f"a {disorder.tag} without an OrphaCode")
    return code
