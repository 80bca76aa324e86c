"""A judge: a small network that reads the findings shown by an image, trained on real images and fixed.

It says whether generated images show what was asked for, and its features are an extractor for
`image_sets`. In the built-in cohort it learns a modality's *readings*, which the pixels determine. The
patients' findings they do not: each modality has noisy readings of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustmdiff.data.cohort.table import FINDINGS, MODALITIES, DiseaseTable
from robustmdiff.evaluation.statistics import Interval, interval
from robustmdiff.ranking import Array, Bools, auroc
from robustmdiff.training.budget import budget
from robustmdiff.training.checkpoint import load_checkpoint, load_weights
from robustmdiff.training.config import LoopConfig
from robustmdiff.training.contract import Objective
from robustmdiff.training.loop import Loop, claim, make_accelerator
from robustmdiff.training.rows import RowPlan

WIDTHS = (24, 48, 96, 96)  # channels after each halving of the image
FEATURES = 64
BATCH = 256  # images read at once


class JudgeConfig(LoopConfig):
    """How to train a judge; adapts to the number of images as every training does."""

    learning_rate: float = 2e-3


class Judge(nn.Module):
    """Images float [n, C, H, W] in [-1, 1], sides that 16 divides -> a logit for each finding, [n, F].

    findings  their names, in the order of the logits
    shape     (C, H, W)
    """

    def __init__(self, findings: Sequence[str], shape: Sequence[int]) -> None:
        super().__init__()
        C, H, W = shape
        if H % 16 or W % 16 or min(shape) < 1:
            raise ValueError(f"Judge: shape is {list(shape)}, expected [C, H, W] with sides that 16 divides")
        if len(findings) == 0:
            raise ValueError("Judge: findings are empty, expected at least one")
        self.findings, self.shape = tuple(findings), (C, H, W)
        layers: list[nn.Module] = []
        for before, after in zip((C, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        # flattened and not pooled: where a consolidation lies is what tells it from another
        self.body = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(WIDTHS[-1] * (H // 16) * (W // 16), FEATURES)
        )
        self.head = nn.Linear(FEATURES, len(findings))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.silu(self.body(images)))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[n, 64], before the last layer."""
        return self._in_batches(self.body, images)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """[n, F]."""
        return self._in_batches(self, images)

    def _in_batches(self, network: nn.Module, images: Tensor) -> Tensor:
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape or len(images) == 0:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(f"Judge: images are {list(images.shape)}, expected [n, {expected}]")
        if not images.isfinite().all():
            raise ValueError("Judge: images hold NaN or infinity, expected finite pixels")
        device = self.head.weight.device
        return torch.cat([network(part.to(device)).cpu() for part in images.float().split(BATCH)])

    @classmethod
    def load(cls, run: Path | str) -> Self:
        """From the folder of `train_judge`."""
        checkpoint = load_checkpoint(run)
        judge = cls(checkpoint.state["findings"], checkpoint.state["shape"])
        load_weights(judge, checkpoint.weights, checkpoint.path)
        return judge.eval()


class _Reading(Objective):
    def forward(self, images: Tensor, shown: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        known = ~shown.isnan()
        each = F.binary_cross_entropy_with_logits(self.model(images), shown.nan_to_num(), reduction="none")
        loss = (each * known).sum() / known.sum().clamp(min=1)
        return loss, {"cross_entropy": loss}


def train_judge(
    images: Tensor,
    shown: Tensor,
    findings: Sequence[str],
    out_dir: Path,
    config: JudgeConfig | None = None,
    *,
    resume: bool = False,
) -> Judge:
    """A judge of images float [n, C, H, W] in [-1, 1] that show findings, float [n, F]: 1 yes, 0 no, NaN not
    known. Leaves in out_dir what every training leaves, from which `Judge.load` has it again."""
    config = config or JudgeConfig()
    if images.ndim != 4 or shown.shape != (len(images), len(findings)):
        raise ValueError(
            f"train_judge: images are {list(images.shape)} and shown {list(shown.shape)}, expected "
            f"[n, C, H, W] and [n, {len(findings)}]"
        )
    if not images.isfinite().all():
        raise ValueError("train_judge: images hold NaN or infinity, expected finite pixels")
    torch.manual_seed(config.seed)
    judge = Judge(findings, images.shape[1:])
    how_long = budget(len(images), config, "images")
    claim(out_dir, resume)
    accelerator = make_accelerator(config, out_dir)
    plan = RowPlan(
        [images.float(), shown.float()],
        how_long,
        config.seed,
        processes=accelerator.num_processes,
        accumulate=config.accumulate,
    )
    loop = Loop(
        _Reading(judge),
        plan,
        config,
        out_dir,
        accelerator,
        name="judge",
        data={"findings": judge.findings, "shape": judge.shape},
        notes=how_long.notes,
    )
    loop.run()
    return judge


class Agreement(NamedTuple):
    """Whether images show the findings that were asked for.

    auroc     mean over findings, with its bootstrap interval over patients
    by_finding  of each finding that somebody was asked for and somebody was not
    skipped   the others
    """

    auroc: Interval
    by_finding: dict[str, float]
    skipped: tuple[str, ...]


def agreement(
    judge: Judge, images: Tensor, asked: Bools, findings: Iterable[str], weight: Array
) -> Agreement:
    """The judge's AUROC of the findings asked for, on the images made for them.

    asked     bool [n, len(findings)]
    findings  those asked for: names that the judge knows
    weight    [R + 1, n] of `statistics.resamples`

    The same of the patients' real images is the row to compare with: modalities of a patient agree
    imperfectly, so more than that is not better.
    """
    findings = tuple(findings)
    if unknown := [name for name in findings if name not in judge.findings]:
        raise ValueError(
            f"agreement: findings name {unknown[0]!r}, expected one of {', '.join(judge.findings)}"
        )
    if asked.dtype != bool or asked.shape != (len(images), len(findings)):
        raise ValueError(
            f"agreement: asked is {asked.dtype} {list(asked.shape)}, expected bool "
            f"[{len(images)}, {len(findings)}]"
        )
    score = judge.logits(images).double().numpy()
    replicates = {
        name: auroc(score[:, judge.findings.index(name)], asked[:, f], weight)
        for f, name in enumerate(findings)
        if asked[:, f].any() and not asked[:, f].all()
    }
    if not replicates:
        raise ValueError(
            "agreement: of no finding is anybody asked for and anybody not, expected both of one"
        )
    over_findings = interval(np.nanmean(list(replicates.values()), axis=0))
    assert over_findings is not None
    skipped = tuple(name for name in findings if name not in replicates)
    return Agreement(over_findings, {name: float(r[0]) for name, r in replicates.items()}, skipped)


def shared_findings(table: DiseaseTable, *modalities: str) -> tuple[str, ...]:
    """The findings of which every one of these modalities of the cohort gives a reading."""
    for name in modalities:
        if name not in MODALITIES:
            raise ValueError(f"shared_findings: {name!r}, expected one of {', '.join(MODALITIES)}")
    shown = table.visible[[MODALITIES.index(name) for name in modalities]].all(0)
    return tuple(FINDINGS[f] for f in np.flatnonzero(shown))
