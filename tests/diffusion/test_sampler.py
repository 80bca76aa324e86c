from __future__ import annotations

import pytest
import torch
from torch import nn

from robustmdiff.diffusion.denoiser import LatentDenoiser
from robustmdiff.diffusion.sampler import sample_latent
from robustmdiff.diffusion.schedule import Schedule

NOTHING = {"tokens": torch.zeros(0, 4), "segments": torch.zeros(3, 2, 2, dtype=torch.int32)}


class GaussianDenoiser(nn.Module):
    """The exact velocity where x_0 ~ N(mu, s^2): E[x_0 | x_t] in closed form."""

    def __init__(self, mu: float, s: float) -> None:
        super().__init__()
        self.mu, self.s = mu, s

    def variance(self, m, view):
        return torch.full((len(m), 5), self.s**2)

    def forward(self, x_t, t, alpha_bar, x_m, m, view, tokens, segments):
        a = alpha_bar[..., None]
        gain = a.sqrt() * self.s**2 / (a * self.s**2 + 1 - a)
        x_0 = self.mu + gain * (x_t - a.sqrt() * self.mu)
        eps = (x_t - a.sqrt() * x_0) / (1 - a).sqrt()
        return a.sqrt() * eps - (1 - a).sqrt() * x_0


@pytest.mark.parametrize("steps", [4, 8, 50])
@pytest.mark.parametrize("beta_schedule", ["cosine", "linear"])
def test_draws_have_the_mean_and_the_spread_of_the_posterior(beta_schedule, steps):
    schedule = Schedule(1000, beta_schedule, steps)
    m = torch.zeros(1, 2, dtype=torch.bool)
    none = {"tokens": torch.zeros(0, 4), "segments": torch.zeros(1, 2, 2, dtype=torch.int32)}
    x = sample_latent(
        GaussianDenoiser(1.5, 0.7), schedule, torch.zeros(1, 5), m, m, **none, draws=4000, seed=3
    )
    assert x.shape == (1, 4000, 5)
    n = x.numel()
    assert abs(float(x.mean()) - 1.5) < 4 * 0.7 / n**0.5 + 0.01
    assert abs(float(x.std()) / 0.7 - 1) < 4 / (2 * n) ** 0.5 + 0.01


def denoiser() -> LatentDenoiser:
    torch.manual_seed(0)
    return LatentDenoiser(latent=5, d_h=4, modalities=2, width=12, depth=1, heads=2)


def test_before_training_it_is_the_exact_denoiser_of_a_gaussian():
    model, x_t, x_m = denoiser(), torch.randn(3, 7, 5), torch.randn(3, 5)
    m = torch.tensor([[True, False]]).expand(3, 2)
    view = torch.ones(3, 2, dtype=torch.bool)
    sigma2 = float(model.variance(m, view)[0, 0])
    assert sigma2 == pytest.approx(0.3**2 + 0.02**2, rel=1e-4)
    for alpha_bar in (0.0, 0.3, 0.97, 1.0):
        a = torch.full((3, 7), alpha_bar)
        v = model(x_t, torch.zeros(3, 7, dtype=torch.long), a, x_m, m, view, **NOTHING)
        x_0 = alpha_bar**0.5 * x_t - (1 - alpha_bar) ** 0.5 * v
        gain = alpha_bar**0.5 * sigma2 / (alpha_bar * sigma2 + 1 - alpha_bar)
        expected = x_m[:, None] + gain * (x_t - alpha_bar**0.5 * x_m[:, None])
        torch.testing.assert_close(x_0, expected, rtol=1e-4, atol=1e-5)


def test_where_nothing_is_added_the_draws_stay_at_what_is_known():
    model, x_m = denoiser(), torch.randn(3, 5)
    nn.init.normal_(model.leave.weight)
    m = torch.tensor([[True, False]]).expand(3, 2)
    x = sample_latent(model, Schedule(60, "cosine", 4), x_m, m, m, **NOTHING, draws=50, seed=0)
    assert (x - x_m[:, None]).std() < 0.1


@pytest.mark.parametrize("start", ["noise", "observed"])
def test_a_patients_draws_do_not_depend_on_the_batch_and_extend(start):
    model, schedule = denoiser(), Schedule(60, "cosine", 4)
    nn.init.normal_(model.leave.weight)
    tokens = torch.randn(6, 4)
    segments = torch.tensor([[[0, 2], [2, 1]], [[0, 0], [3, 2]], [[5, 1], [0, 0]]], dtype=torch.int32)
    x_m, m = torch.randn(3, 5), segments[..., 1] > 0
    view = torch.ones_like(m)
    options = {"seed": 2, "start": start}
    together = sample_latent(model, schedule, x_m, m, view, tokens, segments, draws=6, **options)
    one = slice(1, 2)
    alone = sample_latent(
        model, schedule, x_m[one], m[one], view[one], tokens, segments[one], draws=6, **options
    )
    torch.testing.assert_close(alone, together[one], rtol=1e-4, atol=1e-5)
    fewer = sample_latent(model, schedule, x_m, m, view, tokens, segments, draws=4, **options)
    torch.testing.assert_close(fewer, together[:, :4], rtol=1e-4, atol=1e-5)
