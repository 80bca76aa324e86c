"""Patients with SUPPORT2's columns, made up: of three in four there is an estimate, often a right one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robustmdiff.data.sources.support2 import COLUMNS

DEATH, LIFE = CLASSES = ("death within six months", "alive after six months")


def write_support2(root: Path, patients: int) -> str:
    """support2.csv in this folder, and the path of an ontology with both classes."""
    rng = np.random.default_rng(5)
    rows = [",".join(["", *COLUMNS[1:]])]
    for i in range(patients):
        dies = int(rng.random() < 0.5)
        survival = round(float(np.clip(0.5 + (0.5 - dies) * 0.4 + rng.normal(0, 0.3), 0, 1)), 1)
        cells = dict.fromkeys(COLUMNS, "") | {"id": i, "death": dies, "d.time": 20 if dies else 400}
        cells |= {
            "hospdead": dies,
            "prg6m": survival if i % 4 else "",
            "age": 60 + 5 * dies,
            "crea": round(1 + rng.random(), 2),
        }
        rows.append(",".join(str(cells[name]) for name in COLUMNS))
    (root / "support2.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    classes = (*CLASSES, "death in hospital", "discharged alive")
    concepts = "".join(f"\n[Term]\nid: X:{i}\nname: {name}\n" for i, name in enumerate(classes))
    (root / "concepts.obo").write_text(f"format-version: 1.2\n{concepts}", encoding="utf-8")
    return str(root / "concepts.obo")
