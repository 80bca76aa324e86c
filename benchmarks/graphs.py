"""Graphs to measure on: random ones, and the ontologies that are here.

Real graphs hold an edge and its inverse for each statement, as our models read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustmdiff.knowledge import load_concepts

FILES = {
    "HPO": "hp_*.obo*",
    "Disease Ontology": "doid_*.obo*",
    "Mondo's HPO part": "mondo_hp_*.obo*",
    "Orphanet": "orpha_disorders.tsv*",
}


@dataclass(frozen=True)
class Edges:
    num_nodes: int
    source: Tensor
    target: Tensor


def uniform(n: int, edges: int) -> Edges:
    random = np.random.default_rng(0)
    return _distinct(n, random.integers(n, size=2 * edges), random.integers(n, size=2 * edges), edges)


def power_law(n: int, edges: int, exponent: float = 2.1) -> Edges:
    """In-degrees in proportion to rank^(-1 / (exponent - 1)): a few nodes read thousands."""
    random = np.random.default_rng(0)
    weight = np.arange(1, n + 1) ** (-1 / (exponent - 1))
    target = random.permutation(n)[random.choice(n, size=2 * edges, p=weight / weight.sum())]
    return _distinct(n, random.integers(n, size=2 * edges), target, edges)


def _distinct(n: int, source: np.ndarray, target: np.ndarray, edges: int) -> Edges:
    """The first so many edges of which no two are the same: torch.sparse knows no others. By target."""
    _, first = np.unique(target * n + source, return_index=True)
    kept = np.sort(first)[:edges]
    order = kept[np.argsort((target * n + source)[kept])]
    return Edges(n, torch.from_numpy(source[order]), torch.from_numpy(target[order]))


def icd10cm() -> Edges:
    return _of_table("icd10cm")


def ontology(name: str, folder: Path | None) -> Edges:
    """One of FILES; FileNotFoundError where there is no folder, or no such file in it."""
    if folder is None:
        raise FileNotFoundError(f"{name}: no folder of ontologies is given (--ontology-dir)")
    found = sorted(folder.glob(FILES[name]))
    if not found:
        raise FileNotFoundError(f"{name}: no {FILES[name]} here")
    return _of_table(found[-1])


def _of_table(source: str | Path) -> Edges:
    table = load_concepts(source)
    return _distinct(len(table), table.source, table.target, len(table.source))
