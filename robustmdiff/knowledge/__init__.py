"""Ontologies as concept tables: readers, linking by name, tables on disk. Needs numpy only."""

from robustmdiff.knowledge.archive import read_concepts, save_concepts
from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.knowledge.disease_ontology import read_disease_ontology
from robustmdiff.knowledge.hpo_annotations import read_hpo, read_hpo_annotations
from robustmdiff.knowledge.icd10cm import read_icd10cm
from robustmdiff.knowledge.lines import OntologyError
from robustmdiff.knowledge.link import concepts_of_task, link
from robustmdiff.knowledge.load import load_concepts
from robustmdiff.knowledge.obo import read_obo
from robustmdiff.knowledge.ontology import Ontology, Term
from robustmdiff.knowledge.orphanet import read_orphadata, read_orphanet

__all__ = [
    "ConceptTable",
    "load_concepts",
    "link",
    "concepts_of_task",
    "save_concepts",
    "read_concepts",
    "Ontology",
    "OntologyError",
    "Term",
    "read_obo",
    "read_disease_ontology",
    "read_orphanet",
    "read_orphadata",
    "read_hpo",
    "read_hpo_annotations",
    "read_icd10cm",
]
