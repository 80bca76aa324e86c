"""A judge learns what images show, is loaded as it was saved, and scores images by what was asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robustmdiff.data.cohort.table import disease_table
from robustmdiff.evaluation.generated.judge import Judge, JudgeConfig, agreement, shared_findings, train_judge
from robustmdiff.evaluation.statistics import resamples
from robustmdiff.ranking import auroc

FINDINGS = ("bright corner", "dark corner", "noise alone")


def corners(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of noise with a bright left and a dark right corner, and a finding that they do not show."""
    generator = torch.Generator().manual_seed(seed)
    shown = (torch.rand(n, 3, generator=generator) < 0.4).float()
    x = 0.2 * torch.randn(n, 1, 16, 16, generator=generator)
    x[:, :, :5, :5] += 0.6 * shown[:, 0, None, None, None]
    x[:, :, :5, 11:] -= 0.6 * shown[:, 1, None, None, None]
    return x.clamp(-1, 1), shown


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    images, shown = corners(160, seed=0)
    shown[::3, 1] = math.nan  # not known
    return train_judge(images, shown, FINDINGS, folder, JudgeConfig(epochs=8, batch_size=20)), folder


def test_a_judge_reads_what_images_show_and_nothing_else(run):
    judge, _ = run
    images, shown = corners(200, seed=1)
    found = agreement(judge, images, shown.numpy() == 1, FINDINGS, np.ones((1, 200)))
    assert min(found.by_finding["bright corner"], found.by_finding["dark corner"]) > 0.98
    assert abs(found.by_finding["noise alone"] - 0.5) < 0.15  # sd .04


def test_a_judge_is_loaded_as_it_was_saved(run):
    judge, folder = run
    images = corners(9, seed=2)[0]
    again = Judge.load(folder)
    assert again.findings == FINDINGS
    torch.testing.assert_close(again.logits(images), judge.logits(images), rtol=0, atol=0)
    assert judge.features(images).shape == (9, 64)


def test_agreement_is_the_mean_auroc_over_findings_with_an_interval(run):
    judge, _ = run
    images, shown = corners(60, seed=3)
    asked = shown.numpy()[:, [1, 2]] == 1
    weight = resamples(list(map(str, range(60))), 50)
    found = agreement(judge, images, asked, ("dark corner", "noise alone"), weight)
    score = judge.logits(images).double().numpy()
    each = [auroc(score[:, 1], asked[:, 0]), auroc(score[:, 2], asked[:, 1])]
    assert found.auroc.value == pytest.approx(np.mean(each))
    assert found.auroc.low < found.auroc.value < found.auroc.high
    assert found.skipped == ()


def test_a_finding_that_everybody_was_asked_for_is_skipped_by_name(run):
    judge, _ = run
    images, shown = corners(30, seed=4)
    asked = shown.numpy() == 1
    asked[:, 1] = True
    found = agreement(judge, images, asked, FINDINGS, np.ones((1, 30)))
    assert found.skipped == ("dark corner",)
    with pytest.raises(ValueError, match="of no finding is anybody asked for and anybody not"):
        agreement(judge, images[:1], asked[:1], FINDINGS, np.ones((1, 1)))


def test_what_a_judge_cannot_judge_is_refused(run):
    judge, _ = run
    images, one = corners(5, seed=5)[0], np.ones((1, 5))
    with pytest.raises(ValueError, match=r"images are \[5, 1, 16, 15\], expected \[n, 1, 16, 16\]"):
        judge.logits(images[..., 1:])
    with pytest.raises(ValueError, match="images hold NaN"):
        judge.features(torch.full_like(images, math.nan))
    with pytest.raises(ValueError, match="findings name 'tumour', expected one of bright corner"):
        agreement(judge, images, np.zeros((5, 1), dtype=bool), ["tumour"], one)
    with pytest.raises(ValueError, match=r"asked is bool \[5, 2\], expected bool \[5, 3\]"):
        agreement(judge, images, np.zeros((5, 2), dtype=bool), FINDINGS, one)


def test_images_without_a_row_of_findings_each_do_not_train(tmp_path):
    images, shown = corners(5, seed=0)
    with pytest.raises(ValueError, match=r"shown \[4, 3\], expected \[n, C, H, W\] and \[n, 3\]"):
        train_judge(images, shown[:4], FINDINGS, tmp_path)
    images[2] = math.nan
    with pytest.raises(ValueError, match="images hold NaN"):
        train_judge(images, shown, FINDINGS, tmp_path)
    with pytest.raises(ValueError, match="sides that 16 divides"):
        Judge(FINDINGS, (1, 24, 16))


def test_shared_findings_come_from_the_table():
    table = disease_table(3)
    xray, text = (set(shared_findings(table, name)) for name in ("xray", "text"))
    assert set(shared_findings(table, "xray", "text")) == xray & text
    assert len(xray) == 18  # three quarters of the 24 imaging findings
    with pytest.raises(ValueError, match="'mr', expected one of xray, ct"):
        shared_findings(table, "mr")
