import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustmdiff.alignment.contrast import Contrast, info_nce


def defined(a, b, scale):
    """The definition, pair by pair, in float64."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    N = len(a)
    cosine = [[x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for y in b] for x in a]
    loss = 0.0
    for i in range(N):
        towards_b = [math.exp(scale * cosine[i][j]) for j in range(N)]
        towards_a = [math.exp(scale * cosine[j][i]) for j in range(N)]
        own = math.exp(scale * cosine[i][i])
        loss -= (math.log(own / sum(towards_b)) + math.log(own / sum(towards_a))) / 2
    return loss / N


@given(N=st.integers(1, 7), d=st.integers(1, 6), scale=st.floats(0.1, 100), seed=st.integers(0, 99))
def test_it_is_the_definition(N, d, scale, seed):
    """Lengths do not count."""
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, N, d, generator=g, dtype=torch.float64) * 3
    exact = defined(a, b, scale)
    log_scale = torch.tensor(math.log(scale), dtype=torch.float64)
    assert info_nce(a, b, log_scale).item() == pytest.approx(exact, rel=1e-9, abs=1e-9)
    # a cosine in float32 is off by a few ulp of 1, a logit by `scale` times that
    rough = info_nce(a.float(), b.float(), log_scale.float())
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact, rel=1e-6, abs=8 * scale * torch.finfo(torch.float32).eps)


def test_its_gradient_is_that_of_the_definition():
    g = torch.Generator().manual_seed(3)
    a, b = (torch.randn(5, 3, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    log_scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(info_nce, (a, b, log_scale))


def test_alone_there_is_nobody_to_tell_apart():
    a, b = torch.randn(2, 1, 4)
    assert info_nce(a, b, torch.tensor(2.0)).item() == 0


def test_rows_that_are_all_the_same_cost_ln_N_and_pull_nowhere():
    a = torch.ones(7, 3, requires_grad=True)
    loss = info_nce(a, torch.ones(7, 3), torch.tensor(2.0))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(7), rel=1e-6)
    assert a.grad.abs().max() < 1e-6


def test_a_row_of_zeros_is_equally_far_from_all():
    a = torch.zeros(4, 3, requires_grad=True)
    loss = info_nce(a, torch.eye(4, 3), torch.tensor(2.0))
    loss.backward()
    assert loss.isfinite()
    assert a.grad.isfinite().all()


def test_16_bits_are_no_less_exact_under_autocast():
    a, b = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = info_nce(a, b, torch.tensor(4.0))
    assert torch.equal(inside, info_nce(a, b, torch.tensor(4.0)))


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((0, 2), (0, 2)), ((3,), (3,))])
def test_what_is_no_pair_is_refused(shapes):
    with pytest.raises(ValueError, match=r"a is \[.*expected both \[N >= 1, d\]"):
        info_nce(*map(torch.zeros, shapes), torch.tensor(0.0))


def test_the_temperature_starts_at_clips_and_is_limited_but_not_stuck():
    contrast = Contrast()
    assert contrast.log_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-6)
    with torch.no_grad():
        contrast.log_scale.fill_(9.0)
    contrast.limit()
    assert contrast.log_scale.exp().item() == pytest.approx(100, rel=1e-6)
    a = torch.eye(3)
    contrast(a, a.roll(1, 0)).backward()  # all wrong: it must be able to come down
    assert contrast.log_scale.grad > 0
