import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustmdiff.alignment.invariant import cross_correlation, visual_invariant


def defined(x, y, diag_weight):
    """Element by element, by numpy's own means and (biased) variances, in float64."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    total = 0.0
    for i in range(x.shape[1]):
        for j in range(x.shape[1]):
            p, q = x[:, i], y[:, j]
            c = ((p - p.mean()) * (q - q.mean())).mean() / np.sqrt((p.var() + 1e-5) * (q.var() + 1e-5))
            total += diag_weight * (1 - c) ** 2 if i == j else 0.0051 * c**2
    return total


@given(
    N=st.integers(2, 9),
    d=st.integers(1, 5),
    diag_weight=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_it_is_the_definition(N, d, diag_weight, seed):
    x, y = torch.randn(2, N, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    exact = defined(x, y, diag_weight)
    assert visual_invariant(x, y, diag_weight).item() == pytest.approx(exact, rel=1e-9, abs=1e-12)
    rough = visual_invariant(x.float(), y.float(), diag_weight)
    assert rough.item() == pytest.approx(exact, rel=1e-4, abs=1e-5)


def test_its_gradient_is_that_of_the_definition():
    x, y = (torch.randn(6, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(visual_invariant, (x, y))


def test_off_the_diagonal_alone_nothing_ties_the_views_together():
    """Two views that have nothing to do with each other are as good as two that are the same: of the literal
    reading, not of the default."""
    g = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 20_000, 6, generator=g)
    # 30 products of independent features, each of variance 1 / N: .0051 * 30 / 20,000
    assert visual_invariant(x, x, diag_weight=0) < 1e-4
    assert visual_invariant(x, other, diag_weight=0) < 1e-4
    assert visual_invariant(x, x) < 1e-4
    assert visual_invariant(x, other).item() == pytest.approx(6, abs=0.2)


def test_features_that_say_the_same_twice_cost():
    x = torch.randn(50, 1).expand(-1, 4)
    assert visual_invariant(x, x).item() == pytest.approx(0.0051 * 12, rel=1e-3)


def test_a_feature_that_is_the_same_for_everybody_has_no_correlation():
    x = torch.randn(8, 3)
    x[:, 1] = 2.5
    C = cross_correlation(x, x)
    assert C.isfinite().all()
    assert not C[1].any()
    assert C[0, 0].item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("shapes", [((1, 3), (1, 3)), ((4, 3), (5, 3)), ((4,), (4,))])
def test_what_has_no_correlation_is_refused(shapes):
    with pytest.raises(ValueError, match=r"x is \[.*expected both \[N >= 2, d\]"):
        visual_invariant(*map(torch.zeros, shapes))
