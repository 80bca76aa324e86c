from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robustmdiff.diagnosis.abstention import Abstention

PATTERNS = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
SHARE = [0.4, 0.3, 0.24, 0.03, 0.03]  # the last two are too small to stand alone


def latents(n, seed, d=7):
    g = torch.Generator().manual_seed(seed)
    presence = PATTERNS[torch.multinomial(torch.tensor(SHARE), n, replacement=True, generator=g)]
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99))
    return torch.randn(n, d, generator=g) @ mix + presence.sum(1, keepdim=True), presence


def test_abstention_flags_strangers_and_few_others(tmp_path):
    rule = Abstention.fit(*latents(3000, 0), *latents(2000, 1), quantile=0.95)
    z, presence = latents(8000, 2)
    present = presence.any(1)
    flagged = torch.from_numpy(rule.flag(z, presence))
    assert flagged[present].double().mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 * (1 / 600 + 1 / 8000))
    assert flagged[present].double().mean() >= 0.02
    assert flagged[~present].all()  # nothing present
    stranger = z[present] + 4 * torch.randn(z[present].shape, generator=torch.Generator().manual_seed(3))
    assert rule.flag(stranger, presence[present]).mean() > 0.9
    rule.save(tmp_path / "abstention.json")
    np.testing.assert_array_equal(Abstention.load(tmp_path / "abstention.json").flag(z, presence), flagged)


def test_abstention_distance_is_mahalanobis():
    z, presence = latents(500, 4)
    presence = torch.ones_like(presence)
    rule = Abstention.fit(z, presence, z, presence)
    x = z.double().numpy()
    S = np.cov(x.T, bias=True)
    S = 0.9 * S + 0.1 * np.trace(S) / 7 * np.eye(7)
    centred = x - x.mean(0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, np.linalg.inv(S), centred))
    np.testing.assert_allclose(rule.distance(z, presence), expected, rtol=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_abstention_refuses_what_is_no_latent(bad):
    """A threshold of NaN flags nobody."""
    (z, presence), (other, seen) = latents(300, 5), latents(200, 6)
    rule = Abstention.fit(z, presence, other, seen)
    wrong = z.clone()
    wrong[41, 2] = bad
    with pytest.raises(ValueError, match=rf"Abstention: latent\[41, 2\] is {bad}, expected a finite number"):
        Abstention.fit(wrong, presence, other, seen)
    with pytest.raises(ValueError, match=rf"Abstention: calibration_latent\[41, 2\] is {bad}"):
        Abstention.fit(z, presence, wrong, presence)
    for ask in (rule.flag, rule.distance):
        with pytest.raises(ValueError, match=rf"Abstention: latent\[41, 2\] is {bad}"):
            ask(wrong, presence)


def test_abstention_refuses_what_it_cannot_fit():
    z, presence = latents(20, 5)
    with pytest.raises(
        ValueError, match=r"latent is \[1, 7\] and its presence \[1, 4\], expected .* at least 2"
    ):
        Abstention.fit(z[:1], presence[:1], z, presence)
    with pytest.raises(ValueError, match=r"calibration_latent is \[0, 7\] .* at least 1"):
        Abstention.fit(z, presence, z[:0], presence[:0])
    with pytest.raises(ValueError, match=r"calibration_latent is \[20, 7\] and its presence \[19, 4\]"):
        Abstention.fit(z, presence, z, presence[:19])
    with pytest.raises(ValueError, match="quantile is 1"):
        Abstention.fit(z, presence, z, presence, quantile=1.0)
