from __future__ import annotations

import pytest
import torch

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.task import Task
from robustmdiff.training.masking import MaskingCurriculum

TASK = Task(
    modalities=(
        Modality("xray", "image", shape=(1, 4, 4), cost=2.0),
        Modality("mri", "image", shape=(3, 4, 4), cost=9.0),
        Modality("report", "text", cost=3.0),
        Modality("labs", "values", fields=(Field("crp"),), cost=1.0),
        Modality("genes", "values", fields=(Field("a"),), cost=5.0),
    ),
    classes=("a", "b"),
    prevalence=(0.9, 0.1),
)
B, M = 20_000, 5


def full(rows: int = B) -> torch.Tensor:
    return torch.ones(rows, M, dtype=torch.bool)


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(share: float, expected: float, n: int = B) -> bool:
    return abs(share - expected) < 5 * (expected * (1 - expected) / n) ** 0.5 + 1e-9


def test_rate_follows_the_papers_formula():
    curriculum = MaskingCurriculum(TASK, p_min=0.1, p_max=0.9, r=0.4, scale={"labs": 0.5, "mri": 2.0})
    for e, e_total in [(0, 30), (3, 30), (12, 30), (30, 30)]:
        p = 0.1 + 0.8 * min(1, e / (e_total * 0.4))
        expected = torch.tensor([p, min(1.0, 2 * p), p, 0.5 * p, p])
        torch.testing.assert_close(curriculum.p_mask(e / e_total), expected)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_independent_drops_happen_at_the_rate(progress):
    curriculum = MaskingCurriculum(TASK, p_structured=0, p_nothing=0, spread=False, scale={"labs": 0.5})
    kept = curriculum.draw(full(), progress, generator())
    p = curriculum.p_mask(progress).double()
    # A modality is also kept when it is the one put back after all were dropped: 1/M of those.
    expected = (1 - p) + p.prod() / M
    for i in range(M):
        assert near(kept[:, i].double().mean().item(), expected[i].item()), (i, progress)


def test_spread_keeps_full_views_at_the_end_of_the_curriculum():
    fixed = MaskingCurriculum(TASK, p_structured=0, p_nothing=0, spread=False)
    spread = MaskingCurriculum(TASK, p_structured=0, p_nothing=0)
    assert near(fixed.draw(full(), 1.0, generator()).all(1).double().mean().item(), 0.1**5)
    u = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    expected = ((0.9 - 0.8 * u) ** 5).mean().item()
    assert near(spread.draw(full(), 1.0, generator()).all(1).double().mean().item(), expected)


def test_nothing_at_all_has_its_stated_probability():
    kept = MaskingCurriculum(TASK, p_max=1.0, p_nothing=0.07).draw(full(), 1.0, generator())
    assert near((~kept.any(1)).double().mean().item(), 0.07)


def test_structured_drops_are_the_four_kinds():
    kept = MaskingCurriculum(TASK, p_structured=1, p_nothing=0).draw(full(), 1.0, generator())
    pattern, count = kept.unique(dim=0, return_counts=True)
    share = {
        "".join("01"[v] for v in row): c / B for row, c in zip(pattern.tolist(), count.tolist(), strict=True)
    }
    expected: dict[str, float] = {}
    for i in range(M):  # keep one, drop one
        only = "".join("1" if j == i else "0" for j in range(M))
        expected[only] = expected.get(only, 0) + 0.25 / M
        without = only.translate(str.maketrans("01", "10"))
        expected[without] = expected.get(without, 0) + 0.25 / M
    expected["00111"] = expected.get("00111", 0) + 0.25  # no images
    for pattern_of_limit in ["10010", "11111", "10110", "00010", "10111"]:  # cost <= 2, 9, 3, 1, 5
        expected[pattern_of_limit] = expected.get(pattern_of_limit, 0) + 0.25 / M
    assert set(share) == set(expected)
    for key, value in expected.items():
        assert near(share[key], value), (key, share[key], value)


def test_structured_drops_grow_with_the_ramp():
    curriculum = MaskingCurriculum(TASK, p_min=0, p_max=0, p_structured=0.4, p_nothing=0, r=0.5)
    changed = [(~curriculum.draw(full(), x, generator()).all(1)).double().mean().item() for x in (0, 0.25, 1)]
    whole = 1 - 0.25 / M  # one limit in M of the cheap ones keeps everything
    for share, ramp in zip(changed, (0, 0.5, 1), strict=True):
        assert near(share, 0.4 * ramp * whole)


def test_absent_is_never_shown_and_something_stays():
    presence = torch.rand(B, M, generator=generator(1)) < 0.4
    for progress in (0.0, 0.5, 1.0):
        kept = MaskingCurriculum(TASK, p_max=1.0, p_nothing=0).draw(presence, progress, generator(2))
        assert not (kept & ~presence).any()
        assert torch.equal(kept.any(1), presence.any(1))


def test_pure_function_of_its_arguments():
    curriculum, presence = MaskingCurriculum(TASK), torch.rand(37, M, generator=generator(1)) < 0.6
    one = curriculum.draw(presence, 0.5, generator(3))
    torch.manual_seed(0)
    assert torch.equal(one, curriculum.draw(presence, 0.5, generator(3)))
    assert not torch.equal(one, curriculum.draw(presence, 0.5, generator(4)))
    other = presence.clone()
    other[11:] = ~other[11:]  # other patients change; the first 11 see the same masks
    assert torch.equal(one[:11], curriculum.draw(other, 0.5, generator(3))[:11])


def test_nobody_and_unknown_modality():
    assert MaskingCurriculum(TASK).draw(full(0), 0.5, generator()).shape == (0, M)
    with pytest.raises(ValueError, match="'lab', expected one of xray, mri"):
        MaskingCurriculum(TASK, scale={"lab": 0.5})
