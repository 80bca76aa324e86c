"""What alignment gives, as modalities join one by one, with and without the visual invariant.

    python -m tools.results.alignment            # CPU hours; may be stopped, and goes on
    python -m tools.results.alignment --seeds 0 --variants default

Writes results/generator_alignment.json; `python -m tools.results --tables` writes the page.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from robustmdiff.alignment.config import AlignConfig
from robustmdiff.alignment.link import Link
from robustmdiff.data.study import texts_of
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.experiment.alignment import distance, growing_table
from robustmdiff.experiment.generator import series_of
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import load_study
from tools.results.generators import ROOT, record

SOURCE = Source(
    "cohort", options={"train": 3000, "test": 600, "calibration": 20, "seed": 21, "table_seed": 21}
)
LINKS = [
    Link(*pair)
    for pair in (
        ("text", "ct"),
        ("text", "xray"),
        ("ct", "mri_T1w"),
        ("mri_T1w", "mri_T2w"),
        ("mri_T1w", "mri_PDw"),
        ("text", "structured"),
        ("text", "genomic"),
    )
]
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "visual invariant .02": {"lambda_vi": 0.02},
    "the same, off-diagonal alone": {"lambda_vi": 0.02, "diag_weight": 0.0},
}
ABOUT = (
    "`python -m tools.results.alignment`: 3,000 training and 600 test patients of table 21, on which nothing "
    "was developed; {links} links, {epochs} epochs each and three times as many for the first, text - ct. "
    "Mean over {seeds} seeds of training, least and highest in brackets; chance is .5 and .017."
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "alignment")
    given = parser.parse_args()
    study = load_study(SOURCE)
    parts = {part: series_of(study.task, study.patients[part], ["mri"]) for part in ("train", "test")}
    task, patients = parts["train"][0], {part: list(some) for part, (_, some) in parts.items()}
    tokenizer = train_tokenizer(texts_of(patients["train"], task))
    found: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for variant in given.variants:
        for seed in given.seeds:
            config = AlignConfig(
                epochs=given.epochs,
                batch_size=96,
                seed=seed,
                model=replace(EncoderConfig(), vocabulary=tokenizer.get_vocab_size()),
                **VARIANTS[variant],
            )
            folder = given.out / variant.replace(" ", "_") / f"seed-{seed}"
            table = growing_table(
                task, LINKS, patients, config, folder, tokenizer=tokenizer, resume=folder.exists()
            )
            for row in table:
                if row["modalities"] == len(LINKS) + 1:
                    found[row["pair"], variant].append(row)
    rows = [
        _row(pair, variant, measure, [float(row[name]) for row in some], some[0]["patients"])
        for (pair, variant), some in sorted(found.items(), key=lambda item: _links(item[0][0]))
        for measure, name in (("mean percentile rank", "rank"), ("R@10", "R@10"))
    ]
    about = ABOUT.format(links=len(LINKS), epochs=given.epochs, seeds=len(given.seeds))
    record("alignment", about, rows)


def _links(pair: str) -> int:
    return distance(LINKS, *pair.split(" - "))


def _row(pair: str, variant: str, measure: str, values: list[float], patients: int) -> dict[str, Any]:
    ends = {"low": min(values), "high": max(values)} if len(values) > 1 else {"low": None, "high": None}
    task = f"{pair}, {_links(pair)} link{'s' * (_links(pair) > 1)} away"
    value = {"value": float(np.mean(values)), **ends, "patients": patients}
    return {"task": task, "method": variant, "measure": measure, **value}


if __name__ == "__main__":
    main()
