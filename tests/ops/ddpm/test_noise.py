"""Noising and its loss: against diffusers, the definition, and each other."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from robustmdiff import explain, use_backend
from robustmdiff.ops import ddpm_noise, ddpm_noise_loss, ddpm_step, ddpm_table, philox_key
from robustmdiff.ops.ddpm import definition
from robustmdiff.ops.philox import NOISING, philox_normal


def draw(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def test_equals_add_noise_of_diffusers(engine):
    scheduler = DDPMScheduler()
    table, t = ddpm_table(scheduler), torch.tensor([0, 500, 999])
    x, noise = draw(3, 2, 5, seed=1), draw(3, 2, 5, seed=2)
    theirs = scheduler.add_noise(x, noise, t)
    exact = definition.ddpm_noise(x.double(), 999 - t, table, noise=noise.double())
    with use_backend(ddpm_noise=engine):
        ours = ddpm_noise(x, 999 - t, table, noise=noise)
    assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max()


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 7, 11), (0, 4), (2, 0), (4,)], ids=str)
def test_drawn_noise_is_that_of_the_definition(engine, table, shape):
    x, step, key = draw(*shape, seed=1), torch.tensor([0, 9, 4, 4])[: shape[0]], philox_key(3, 2)
    noise = philox_normal(key, step + NOISING, None, x.shape[1:].numel())
    exact = definition.ddpm_noise(x.double(), step, table, noise=noise.reshape(shape))
    with use_backend(ddpm_noise=engine):
        torch.testing.assert_close(
            ddpm_noise(x, step, table, key=key).double(), exact, rtol=1e-6, atol=1.2e-6
        )


def test_noising_never_draws_what_sampling_draws(table):
    """Both at the same key, row and step, from x = 0: what is left is the noise, scaled."""
    zero, step, key = torch.zeros(1, 4096), torch.tensor([3]), philox_key(3)
    noised, stepped = ddpm_noise(zero, step, table, key=key), ddpm_step(zero, zero, step, table, key=key)
    correlation = torch.corrcoef(torch.cat((noised, stepped)))[0, 1]
    assert correlation.abs() < 5 / 4096**0.5


@pytest.mark.parametrize("target", ["epsilon", "sample", "v_prediction"])
def test_loss_is_zero_where_the_target_is_met_and_has_its_gradient(engine, table, target):
    x, step, key, ids = (
        draw(3, 2, 5, seed=1),
        torch.tensor([0, 9, 4]),
        philox_key(3),
        torch.tensor([4, 0, 9]),
    )
    noise = philox_normal(key, step + NOISING, ids, 10).reshape(x.shape)
    met = definition.noise_target(x.double(), step, table, target, noise)
    source = {"key": key, "row_ids": ids, "target": target}
    with use_backend(ddpm_noise_loss=engine):
        assert ddpm_noise_loss(met.float(), x, step, table, **source).max() < 1e-11
        prediction, weight = draw(3, 2, 5, seed=7).requires_grad_(), torch.tensor([1.0, 2.0, 0.5])
        loss = ddpm_noise_loss(prediction, x, step, table, **source)
        (grad,) = torch.autograd.grad((loss * weight).sum(), prediction)
    leaf = prediction.detach().double().requires_grad_()
    exact = definition.ddpm_noise_loss(leaf, x.double(), step, table, target=target, noise=noise)
    (exact_grad,) = torch.autograd.grad((exact * weight).sum(), leaf)
    torch.testing.assert_close(loss.double(), exact.detach(), rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=2e-6, atol=1e-6)


def test_the_loss_fits_the_noising(engine, table):
    """v = a noise - b x0, so a x_t - b v = x0 with no knowledge of the noise."""
    x, step, key = draw(2, 6, seed=1), torch.tensor([2, 8]), philox_key(1)
    with use_backend(ddpm_noise=engine, ddpm_noise_loss=engine):
        x_t = ddpm_noise(x, step, table, key=key)
        a, b = table[step, 0:1], table[step, 1:2]
        v = (a * x_t - x) / b
        assert ddpm_noise_loss(v, x, step, table, target="v_prediction", key=key).max() < 1e-10


def test_gradient_of_noising(engine, table):
    x, step = draw(2, 6, seed=1).requires_grad_(), torch.tensor([2, 8])
    with use_backend(ddpm_noise=engine):
        ddpm_noise(x, step, table, key=philox_key(0)).sum().backward()
    torch.testing.assert_close(x.grad, table[step, 0:1].expand(2, 6))


def test_given_noise_stays_on_torch_in_the_loss(table):
    x, step = draw(2, 6, seed=1), torch.tensor([2, 8])
    explanation = explain("ddpm_noise_loss", x, x, step, table, noise=x)
    assert explanation.chosen == "torch"
    assert "noise is given" in str(explanation)
