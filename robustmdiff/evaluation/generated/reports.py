"""Generated reports: one row of the table, and the rows that need no model, floors and ceilings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from robustmdiff.data.cohort.cohort import Cohort
from robustmdiff.data.cohort.mentions import findings_of
from robustmdiff.data.cohort.report import write
from robustmdiff.data.cohort.table import FINDINGS, MODALITIES
from robustmdiff.data.cohort.told import told
from robustmdiff.evaluation.generated.finding_agreement import f1_thresholds, micro_f1, vote
from robustmdiff.evaluation.generated.image_sets import nearest
from robustmdiff.evaluation.generated.judge import shared_findings
from robustmdiff.evaluation.generated.texts import bleu, distinct, rouge_l
from robustmdiff.evaluation.metrics import mean
from robustmdiff.evaluation.statistics import Interval, interval
from robustmdiff.ranking import Array, Bools


class ReportRow(NamedTuple):
    """rouge_l, bleu  words in common with the real reports: shown, and never argued from (see `texts`)
    f1_shared  micro F1 of the findings that the source shows as well; None where nothing is said or so
    f1_all     of all that a report may state
    positives  findings stated per report
    distinct   share of different reports
    """

    rouge_l: Interval | None
    bleu: tuple[float, ...]
    f1_shared: Interval | None
    f1_all: Interval | None
    positives: float
    distinct: float


def measure_reports(
    generated: Sequence[str],
    real: Sequence[str],
    true: Bools,
    shared: Bools,
    weight: Array,
    read: Callable[[str], np.ndarray] = findings_of,
) -> ReportRow:
    """true bool [n, F]: what the real reports state; shared bool [F]; weight [R + 1, n] of
    `statistics.resamples`; read: a text -> [F], above 0 where it states a finding."""
    words = rouge_l(generated, real)
    said = np.stack([read(text) > 0 for text in generated])
    return ReportRow(
        rouge_l=interval(mean(words, weight)),
        bleu=bleu(generated, real),
        f1_shared=interval(micro_f1(said[:, shared], true[:, shared], weight)),
        f1_all=interval(micro_f1(said, true, weight)),
        positives=float(said.sum(1).mean()),
        distinct=distinct(generated),
    )


def report_bounds(
    train: Cohort, test: Cohort, logits: tuple[Tensor, Tensor], source: str = "xray", seed: int = 0
) -> dict[str, list[str]]:
    """Reports of the test patients that no generator wrote, by what they are.

    logits  of the source's images by some encoder, [n, d] of the training and of the test patients

    Ceilings come from the exact posterior given the source's readings, which no image tells better; floors
    from training reports. Thresholds are chosen on training patients.
    """
    rng = np.random.default_rng(seed)
    text = MODALITIES.index("text")
    posterior = told(test, source, "text")
    on_training = told(train, source, "text").probability
    thresholds = f1_thresholds(on_training, train.drawn.readings[:, text] == 1)
    shown = test.table.visible[text]

    def written(readings: Bools) -> list[str]:
        return [write(row, False, rng) for row in np.where(shown, readings, -1).astype(np.int8)]

    reports = [str(record["text"]) for record in train.rendering.records]
    looks_alike = nearest(logits[1], logits[0])[1]
    anybody = rng.integers(len(train), size=len(test))
    return {
        "true readings, written again": written(test.drawn.readings[:, text] == 1),
        "exact posterior, one draw": written(posterior.draw(rng) == 1),
        "exact posterior, probability above .5": written(posterior.probability > 0.5),
        "exact posterior, F1 thresholds": written(vote(posterior.probability, thresholds)),
        "nearest training patient, encoder's logits": [reports[i] for i in looks_alike],
        "a training report at random": [reports[i] for i in anybody],
        "nothing found": written(np.zeros_like(posterior.probability, dtype=bool)),
    }


def cohort_rows(
    test: Cohort, reports: dict[str, list[str]], weight: Array, source: str = "xray"
) -> dict[str, ReportRow]:
    """`measure_reports` of each against the reports of a cohort's patients."""
    text = MODALITIES.index("text")
    real = [str(record["text"]) for record in test.rendering.records]
    shared = np.isin(FINDINGS, shared_findings(test.table, source, "text"))
    true = test.drawn.readings[:, text] == 1
    return {name: measure_reports(each, real, true, shared, weight) for name, each in reports.items()}
