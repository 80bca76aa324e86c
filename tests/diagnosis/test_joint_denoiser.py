"""Before it has learned anything, the joint denoiser is exact for x_0 ~ N(x_m, spread): its loss and its
draws have known values."""

from __future__ import annotations

import pytest
import torch

from robustmdiff.diagnosis.joint_denoiser import NOISINGS, JointDenoiser
from robustmdiff.diagnosis.noise import PatientNoise
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.ops import philox_key

PATIENTS, LATENT = 3000, 5
CONFIG = ModelConfig(d_h=4, heads=2, width=12, depth=1, T=200, steps=40)
VIEW = torch.ones(PATIENTS, 2, dtype=torch.bool)


@pytest.fixture
def denoiser() -> JointDenoiser:
    torch.manual_seed(0)
    return JointDenoiser(LATENT, 2, CONFIG)


@pytest.fixture
def one_of_two() -> Encoded:
    """One token of the first modality each."""
    segments = torch.zeros(PATIENTS, 2, 2, dtype=torch.int32)
    segments[:, 0, 0], segments[:, 0, 1] = torch.arange(PATIENTS), 1
    return Encoded(torch.randn(PATIENTS, 4), segments, torch.randn(PATIENTS, 2, 4))


def test_its_loss_is_the_variance_that_is_left(denoiser, one_of_two):
    """E|x_0 - E[x_0 | x_t]|^2 / s^2 = sigma^2 / (a^2 sigma^2 + s^2), the mean over the timesteps."""
    x_m = torch.randn(PATIENTS, LATENT)
    sigma2 = denoiser.variance(one_of_two.m, VIEW)
    x_0 = x_m + sigma2.sqrt() * torch.randn(PATIENTS, LATENT)
    noise = PatientNoise(torch.arange(PATIENTS), torch.tensor(3))
    loss, x_hat = denoiser.loss(x_0, x_m, VIEW, one_of_two, noise)
    alpha_bar = denoiser.schedule.alphas_cumprod.double()
    each = sigma2[0, 0] / (alpha_bar * sigma2[0, 0] + 1 - alpha_bar)
    # t is drawn for each patient and noise level, and a squared normal deviates by sqrt(2) of its mean.
    error = (each.var() / (PATIENTS * NOISINGS) + 2 * each.square().mean() / (PATIENTS * LATENT)).sqrt()
    assert abs(loss - each.mean()) < 4 * error
    assert x_hat.shape == (PATIENTS, NOISINGS, LATENT)


def test_its_draws_are_those_of_the_gaussian(denoiser, one_of_two):
    x_m = torch.full((PATIENTS, LATENT), 2.0)
    x_m[:, 1] = -1
    with torch.no_grad():
        two = one_of_two._replace(tokens=one_of_two.tokens[:2], segments=one_of_two.segments[:2])
        x = denoiser.draw(x_m[:2], VIEW[:2], two, 4000, philox_key(1))
        sigma2 = denoiser.variance(one_of_two.m, VIEW)[0, 0]
    assert x.shape == (2, 4000, LATENT)
    assert torch.equal(x[0], x[1])  # draw s has the same noise for every patient
    error = (sigma2 / 4000).sqrt()
    torch.testing.assert_close(x[0].mean(0), x_m[0], rtol=0, atol=5 * float(error))
    torch.testing.assert_close(x[0].var(0) / sigma2, torch.ones(LATENT), rtol=0, atol=5 * (2 / 4000) ** 0.5)


def test_its_loss_teaches_nobody_else(denoiser, one_of_two):
    x_m, tokens = (torch.randn(PATIENTS, n, requires_grad=True) for n in (LATENT, 4))
    torch.nn.init.normal_(denoiser.leave.weight)  # at zero, nothing would flow back to what it reads
    noise = PatientNoise(torch.arange(PATIENTS), torch.tensor(0))
    loss, _ = denoiser.loss(x_m.detach() + 1, x_m, VIEW, one_of_two._replace(tokens=tokens), noise)
    loss.backward()
    assert x_m.grad is None
    assert tokens.grad is None
    assert denoiser.read.W_v.weight.grad.abs().sum() > 0
