"""Reports made of an image: what they state of the findings that image and report share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from robustmdiff.data.patient import Patient
from robustmdiff.evaluation.generated.finding_agreement import (
    f1_thresholds,
    micro_f1,
    share_of_samples,
    vote,
)
from robustmdiff.evaluation.generated.reports import ReportRow, cohort_rows, report_bounds
from robustmdiff.experiment.generated.cohort import Judged, having_only
from robustmdiff.experiment.generated.images import GUIDANCE
from robustmdiff.experiment.generated.rows import Row, alone, measured

WATCHED = 600  # training patients on whom thresholds are chosen
PART = 50


def reports_from_image(judged: Judged, draws: int) -> Iterator[Row]:
    """Micro F1 of the shared findings: of one draw, of what `draws` of them say on average, written, and of a
    vote whose thresholds, one a finding, are chosen on training patients. Floors and ceilings beside them.
    ROUGE-L and BLEU are shown, and nothing is argued from them."""
    task, measure = f"{judged.name} -> text", "finding F1"
    bounds = report_bounds(
        judged.train,
        judged.test,
        (judged.judge.logits(judged.on_trained), judged.judge.logits(judged.real)),
        judged.name,
    )
    yield from _written(judged, task, bounds)
    for guidance in GUIDANCE:
        drawn = _drawn(judged, judged.patients, draws, guidance)
        said, on_training = (
            np.stack([judged.stated(texts) for texts in each])
            for each in (drawn, _drawn(judged, list(judged.train.patients)[:WATCHED], draws, guidance))
        )
        chosen = f1_thresholds(share_of_samples(on_training), judged.on_training[:WATCHED])
        voted = vote(share_of_samples(said), chosen)
        how = f"guidance {guidance:g}"
        yield measured(
            task,
            f"{how}, vote of {draws}, thresholds",
            measure,
            micro_f1(voted, judged.asked, judged.weight),
            judged.patients,
        )
        averaged = judged.model.generate(
            having_only(judged.patients, judged.name), ["text"], votes=draws, guidance=guidance
        )
        texts = {
            f"{how}, one draw": drawn[0],
            f"{how}, average of {draws}": [str(one.made["text"][0]) for one in averaged],
        }
        yield from _written(judged, task, texts)


def _written(judged: Judged, task: str, texts: dict[str, list[str]]) -> Iterator[Row]:
    rows: dict[str, ReportRow] = cohort_rows(judged.test, texts, judged.weight, judged.name)
    for method, row in rows.items():
        for measure, value in (
            ("finding F1", row.f1_shared),
            ("finding F1, all that a report states", row.f1_all),
            ("ROUGE-L", row.rouge_l),
            ("BLEU-4", alone(row.bleu[-1])),
        ):
            if value is not None:
                yield Row(task, method, measure, value, len(judged.patients))


def _drawn(judged: Judged, patients: Sequence[Patient], draws: int, guidance: float) -> list[list[str]]:
    """[draws][patients]"""
    texts: list[list[str]] = []
    sole = having_only(patients, judged.name)
    for start in tqdm(range(0, len(sole), PART), desc="writing reports", leave=False, disable=None):
        some = judged.model.generate(sole[start : start + PART], ["text"], draws=draws, guidance=guidance)
        texts += [[str(text) for text in one.made["text"]] for one in some]
    return [list(each) for each in zip(*texts, strict=True)]
