"""How good a generator is, on patients that it has not seen: one number a row, with who is beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from robustmdiff.data.cohort import Cohort
from robustmdiff.data.cohort.mentions import findings_of
from robustmdiff.data.cohort.table import FINDINGS, MODALITIES
from robustmdiff.data.patient import Observation, Patient
from robustmdiff.data.task import Task
from robustmdiff.evaluation.generated.finding_agreement import (
    f1_thresholds,
    micro_f1,
    share_of_samples,
    vote,
)
from robustmdiff.evaluation.generated.images import (
    averaged_psnr,
    psnr,
    sharpness,
    spread_over_skill,
    ssim,
)
from robustmdiff.evaluation.generated.judge import Judge, agreement, shared_findings, train_judge
from robustmdiff.evaluation.metrics import mean
from robustmdiff.evaluation.retrieval import retrieval
from robustmdiff.evaluation.statistics import Interval, interval, resamples
from robustmdiff.experiment.generator import read_generator_config, series_of
from robustmdiff.experiment.run import SPLIT, read_source
from robustmdiff.experiment.sheets import draw_sheets
from robustmdiff.experiment.studies import cohorts_of, load_study
from robustmdiff.generation.medm2g import MedM2G
from robustmdiff.generation.observed import frame_of, images_of
from robustmdiff.generation.pretrained import load_generator
from robustmdiff.generation.translation import Translation
from robustmdiff.ops import philox_key
from robustmdiff.ranking import Array, Bools
from robustmdiff.training.checkpoint import LAST
from robustmdiff.whole import write_whole

DRAWS = 16
REPLICATES = 1000


class Row(NamedTuple):
    """task, method, measure  whose number it is, and of what
    value    with its interval over patients
    patients  n
    """

    task: str
    method: str
    measure: str
    value: Interval
    patients: int

    def plain(self) -> dict[str, Any]:
        """In JSON's types; None for an end that there are too few for, or that was not asked."""
        ends = (float(x) if np.isfinite(x) else None for x in self.value)
        return self._asdict() | dict(zip(("value", "low", "high"), ends, strict=True))


def measure_generator(run: Path, draws: int = DRAWS) -> list[Row]:
    """All that can be measured of a run of `train_generator`, on the test patients of its study; also written
    to run/evaluation/table.json, with pictures beside it. Raises Refusal for a folder that holds none."""
    model, source = load_generator(run / "model"), read_source(run)
    study = load_study(source, None if source.data == "cohort" else run / SPLIT)
    _, patients = series_of(study.task, study.patients["test"], read_generator_config(run).split)
    patients = list(patients)
    rows = [*translations(model, patients, draws), *retrievals(model, patients)]
    if source.data == "cohort":
        cohorts = cohorts_of(source)
        judged = CohortJudgement(model, cohorts["train"], cohorts["test"], run / "evaluation")
        rows += judged.rows()
    draw_sheets(model, patients, run / "evaluation")
    table = [row.plain() for row in rows]
    write_whole(run / "evaluation" / "table.json", json.dumps(table, indent=1).encode())
    return rows


def translations(
    model: MedM2G, patients: Sequence[Patient], draws: int = DRAWS, seed: int = 0
) -> Iterator[Row]:
    """Each image of a frame from all others that a patient has: the regression, one draw, the mean of many.
    PSNR has range 2 over all pixels; that of a mean of N honest draws is raised by what averaging N of them
    costs, 10 log10(1 + 1/N) (`averaged_psnr`)."""
    for _, translation in model.translated():
        frame = [model.task.modality(name) for name in translation.draft.series]
        for target in translation.draft.targets:
            having = [p for p in patients if p.has(target) and model.sources(p, target)]
            if not having:
                continue
            real = images_of(having, model.task.modality(target))
            images, present = frame_of(having, frame, [target])
            regression = translation.mean(images, target, present).clamp(-1, 1)
            drawn = _draws(translation, images, target, present, draws, seed)
            weight = resamples([p.person for p in having], REPLICATES, seed)
            task, samples = f"others -> {target}", drawn.transpose(0, 1)
            for method, x in (("regression", regression), ("one draw", drawn[:, 0])):
                yield _row(task, method, "PSNR, dB", mean(psnr(x, real), weight), having)
                yield _row(task, method, "SSIM", mean(ssim(x, real), weight), having)
                yield _row(task, method, "sharpness", sharpness(x, real).of(weight), having)
            averaged = mean(averaged_psnr(samples, real), weight)
            yield _row(task, f"mean of {draws}", "PSNR, dB, corrected", averaged, having)
            spread = spread_over_skill(samples, real).of(weight)
            yield _row(task, f"{draws} draws", "spread over skill", spread, having)


def _draws(
    translation: Translation,
    images: Mapping[str, Tensor],
    target: str,
    present: Tensor,
    draws: int,
    seed: int,
) -> Tensor:
    """[n, draws, C, H, W] in [-1, 1], a few patients at a time."""
    parts = []
    some = torch.arange(len(present)).split(32)
    for rows in tqdm(some, desc=f"drawing {target}", leave=False, disable=None):
        own = {name: x[rows] for name, x in images.items()}
        how: dict[str, Any] = {"draws": draws, "key": philox_key(seed), "row_ids": rows}
        parts.append(translation.sample(own, target, present[rows], **how))
    return torch.cat(parts).clamp(-1, 1)


def retrievals(model: MedM2G, patients: Sequence[Patient]) -> Iterator[Row]:
    """How well one modality's prompt finds the same patient's other, for each pair of aligned modalities."""
    h, m = model.prompts.embed(patients, model.tokenizer)
    names = model.task.modality_names
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            rows = (m[:, i] & m[:, j]).nonzero()[:, 0]
            if len(rows) < 2:
                continue
            found = retrieval(h[rows, i], h[rows, j])
            nothing = float("nan")
            task = f"{b} - {a}"
            yield Row(
                task, "prompts", "mean percentile rank", Interval(found.rank, nothing, nothing), len(rows)
            )
            yield Row(task, "prompts", "R@10", Interval(found.at_10, nothing, nothing), len(rows))


class CohortJudgement:
    """What only the built-in cohort can be asked: whether what was generated shows and states the findings.

    train, test  cohorts, of whom the readings of each modality are known
    """

    def __init__(self, model: MedM2G, train: Cohort, test: Cohort, folder: Path) -> None:
        self.model, self.train, self.test = model, train, test
        self.patients = list(test.patients)
        self.weight = resamples([p.person for p in self.patients], REPLICATES)
        self.shared = shared_findings(test.table, "xray", "text")
        self.judge = _judge(train, folder / "judges" / "xray")

    def rows(self) -> Iterator[Row]:
        yield from self.xray_from_text()
        yield from self.report_from_xray()
        yield from self.together()

    def xray_from_text(self) -> Iterator[Row]:
        """AUROC of the findings that the report states, on the X-ray made from it alone."""
        asked = self._readings(self.test, "text")
        real = images_of(self.patients, self.model.task.modality("xray"))
        yield self._agreement("text -> xray", "real pairs", real, asked)
        for guidance in (1.0, 3.0):
            x = self._images(_alone(self.patients, "text"), guidance)
            yield self._agreement("text -> xray", f"guidance {guidance:g}", x, asked)
            yield _row(
                "text -> xray",
                f"guidance {guidance:g}",
                "sharpness",
                sharpness(x, real).of(self.weight),
                self.patients,
            )

    def report_from_xray(self, samples: int = DRAWS) -> Iterator[Row]:
        """F1 of the findings that X-ray and report share, by a vote of many reports whose thresholds are
        chosen on training patients, and of one report."""
        watched = list(self.train.patients)[: len(self.patients)]
        on_training = self._said(watched, samples)
        said = self._said(self.patients, samples)
        chosen = f1_thresholds(
            share_of_samples(on_training), self._readings(self.train, "text")[: len(watched)]
        )
        true = self._readings(self.test, "text")
        task, measure = "xray -> text", "finding F1"
        voted = vote(share_of_samples(said), chosen)
        yield _row(task, f"vote of {samples}", measure, micro_f1(voted, true, self.weight), self.patients)
        yield _row(task, "one draw", measure, micro_f1(said[0], true, self.weight), self.patients)

    def together(self) -> Iterator[Row]:
        """X-ray and report made together from nothing: AUROC of what the report states, on its X-ray."""
        nobody = [Patient(p.id, {}) for p in self.patients]
        made = self.model.generate(nobody, ["xray", "text"])
        x = _pixels(self.model.task, [one.made["xray"][0] for one in made])
        asked = self._stated([str(one.made["text"][0]) for one in made])
        yield self._agreement("nothing -> xray, text", "together", x, asked)

    def _images(self, patients: Sequence[Patient], guidance: float) -> Tensor:
        made = self.model.generate(patients, ["xray"], guidance=guidance)
        return _pixels(self.model.task, [one.made["xray"][0] for one in made])

    def _said(self, patients: Sequence[Patient], samples: int) -> Bools:
        """bool [samples, n, findings]"""
        made = self.model.generate(_alone(patients, "xray"), ["text"], draws=samples)
        return np.stack([self._stated([str(one.made["text"][i]) for one in made]) for i in range(samples)])

    def _stated(self, texts: Sequence[str]) -> Bools:
        """bool [n, findings]: those shared, which each text states."""
        places = [FINDINGS.index(name) for name in self.shared]
        return np.stack([findings_of(text)[places] == 1 for text in texts])

    def _readings(self, cohort: Cohort, modality: str) -> Bools:
        places = [FINDINGS.index(name) for name in self.shared]
        return cohort.drawn.readings[:, MODALITIES.index(modality)][:, places] == 1

    def _agreement(self, task: str, method: str, images: Tensor, asked: Bools) -> Row:
        found = agreement(self.judge, images, asked, self.shared, self.weight)
        return Row(task, method, "AUROC of findings", found.auroc, len(images))


def _judge(train: Cohort, folder: Path) -> Judge:
    """Trained on the readings that the X-rays show."""
    m = MODALITIES.index("xray")
    places = np.flatnonzero(train.table.visible[m])
    images = images_of(list(train.patients), train.task.modality("xray"))
    shown = torch.from_numpy((train.drawn.readings[:, m][:, places] == 1).astype(np.float32))
    names = [FINDINGS[f] for f in places]
    return train_judge(images, shown, names, folder, resume=(folder / LAST).exists())


def _alone(patients: Sequence[Patient], name: str) -> list[Patient]:
    return [replace(patient, modalities={name: patient.modalities.get(name)}) for patient in patients]


def _pixels(task: Task, images: Sequence[Observation]) -> Tensor:
    patients = [Patient(str(i), {"xray": image}) for i, image in enumerate(images)]
    return images_of(patients, task.modality("xray"))


def _row(task: str, method: str, measure: str, replicates: Array, patients: Sequence[Patient]) -> Row:
    found = interval(replicates)
    return Row(task, method, measure, found or Interval(float("nan"), np.nan, np.nan), len(patients))
