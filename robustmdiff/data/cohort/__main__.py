"""Prints the ceilings and the reader check of the built-in cohort:

python -m robustmdiff.data.cohort --patients 2500
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.cohort.ceiling import Ceiling, ceilings
from robustmdiff.data.cohort.reader import Reader
from robustmdiff.data.cohort.sheet import contact_sheet, first_of_each_class


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m robustmdiff.data.cohort", description=__doc__)
    parser.add_argument("--patients", type=int, default=2500, help="rendered; half of them teach the reader")
    parser.add_argument("--readings", type=int, default=50000, help="patients for the exact ceiling")
    parser.add_argument("--table-seed", type=int, default=0)
    parser.add_argument("--cache", default=None)
    parser.add_argument("--sheet", default=None, help="only write this PNG, of eight patients")
    arguments = parser.parse_args()
    if arguments.sheet:
        few = make_cohort(CohortConfig(patients=60, table_seed=arguments.table_seed), cache=arguments.cache)
        contact_sheet(few, first_of_each_class(few)[:8], arguments.sheet)
        return

    many = make_cohort(CohortConfig(patients=arguments.readings, seed=1, table_seed=arguments.table_seed))
    print(f"Exact ceiling, {len(many)} patients")
    _print(ceilings(many))

    config = CohortConfig(patients=arguments.patients, table_seed=arguments.table_seed)
    cohort = make_cohort(config, cache=arguments.cache)
    start = time.perf_counter()
    _ = cohort.rendering
    print(f"\n{len(cohort)} patients rendered or opened in {time.perf_counter() - start:.1f} s")
    print("\n| modality | readings | mean AUROC | lowest | which |\n|---|---|---|---|---|")
    first, held_out = np.split(np.arange(len(cohort)), [len(cohort) // 2])
    reader = Reader.fit(cohort, first)
    for name, by_finding in reader.check(cohort, held_out).items():
        lowest = min(by_finding, key=lambda f: by_finding[f])
        mean = np.mean(list(by_finding.values()))
        print(f"| {name} | {len(by_finding)} | {mean:.4f} | {by_finding[lowest]:.3f} | {lowest} |")
    print(f"\nExact, {len(held_out)} held-out patients")
    _print(ceilings(cohort, index=held_out))
    print("\nThe same patients, from the readings as the reader recovers them")
    _print(ceilings(cohort, lambda mask, index: reader.ceiling(cohort, mask, index), held_out))


def _print(rows: list[Ceiling]) -> None:
    print("| present | macro AUROC | retention | accuracy | rare recall |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.present} | " + " | ".join(f"{value:.3f}" for value in row[1:]) + " |")


if __name__ == "__main__":
    main()
