"""Which metric chooses among the weights of the epochs: one that the patients who validate can carry."""

from __future__ import annotations

from typing import Literal

from robustmdiff.refusal import Refusal
from robustmdiff.training.counts import Counts
from robustmdiff.training.notes import Note

Monitor = Literal["macro_auroc", "log_loss", "last"]

SURE = 0.05  # largest standard error of a macro AUROC that may choose: epochs differ by less than that
TYPICAL = 0.8  # the AUROC at which that error is told
ENOUGH = 20  # patients whose mean log loss may choose: each one's is about 1 nat away from the mean


def macro_auroc_error(patients: Counts, auroc: float = TYPICAL) -> float:
    """The standard error of a macro AUROC of this value in these patients, the classes taken as
    independent (Hanley and McNeil 1982, equation 1 with the exponential model's Q1 and Q2)."""
    A, Q1, Q2 = auroc, auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = [
        (A * (1 - A) + (n1 - 1) * (Q1 - A**2) + (n0 - 1) * (Q2 - A**2)) / (n1 * n0)
        for n1, n0 in patients.contrasts
    ]
    return sum(variance) ** 0.5 / len(variance) if variance else float("inf")


def choose_monitor(asked: Monitor | None, patients: Counts) -> tuple[Monitor, list[Note]]:
    """The metric that was asked for, else log_loss where at least `ENOUGH` patients have it, else the last
    weights; and what to say of it. The log loss is of the probabilities that are answered: of many weights
    that rank the patients alike, it takes those that are sure of what they know.

    Raises Refusal for a metric asked for that these patients do not have.
    """
    n, error = patients.patients, macro_auroc_error(patients)
    if asked == "macro_auroc" and not patients.contrasts:
        raise Refusal(
            "train: patients_valid has no class with both kinds of patients, so there is no macro_auroc; "
            "expected more patients, or monitor: log_loss"
        )
    if asked == "log_loss" and not any(patients.positive):
        raise Refusal(
            "train: no class is known to hold for any of patients_valid, so there is no log_loss; "
            "expected patients whose labels are known"
        )
    unsure = f"the macro AUROC of the {n} patients who validate has a standard error of about {error:.2f}"
    if asked is not None:
        weak = (asked == "macro_auroc" and error > SURE) or (asked == "log_loss" and n < ENOUGH)
        what = unsure if asked == "macro_auroc" else f"{n} patients validate"
        note = f"{what[0].upper()}{what[1:]}: which epoch was best is largely chance."
        return asked, [Note("monitor", n, note)] if weak else []
    if n >= ENOUGH and any(patients.positive):
        return "log_loss", []
    few = "nobody validates" if n == 0 else f"{n} patients validate, too few to choose by"
    return "last", [Note("monitor", n, f"The last averaged weights are taken, because {few}.")]
