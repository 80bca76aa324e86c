"""The samplers, on denoisers whose answers are known in closed form, and beside diffusers' own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustmdiff.diffusion.loss import diffusion_loss, flow_loss
from robustmdiff.diffusion.precondition import Precondition
from robustmdiff.diffusion.sample import (
    guided,
    pure_noise,
    sample_ddim,
    sample_ddpm,
    sample_dpmpp_2m,
    sample_heun,
)
from robustmdiff.diffusion.schedule import Level, Schedule, StraightPath
from robustmdiff.ops import ddpm_noise, philox_key

SHAPE = (3, 2, 5, 7)


def gaussian(x: Tensor, level: Level, condition: tuple[float, float]) -> Tensor:
    """E[x_0 | x_t] where x_0 ~ N(mu, s^2)."""
    mu, s = condition
    p = Precondition.of_gaussian(level, torch.full((1,), s**2))
    return mu + p.c_skip * (x - level.a * mu)


def bent(x: Tensor, level: Level, condition: float) -> Tensor:
    """Not linear in x, not constant in time: what a network is."""
    s = level.s.reshape(-1, *[1] * (x.dim() - 1))
    return torch.tanh(condition * x) + 0.3 * s * torch.sin(x)


@pytest.mark.parametrize("steps", [4, 8, 50])
@pytest.mark.parametrize("beta_schedule", ["cosine", "linear"])
def test_ancestral_draws_have_the_mean_and_the_spread_of_the_posterior(beta_schedule, steps):
    x = pure_noise(torch.empty(4000, 5), philox_key(3))
    schedule = Schedule(1000, beta_schedule, steps)
    spread = torch.full_like(x, 0.7**2)
    x = sample_ddpm(gaussian, schedule, x, (1.5, 0.7), key=philox_key(3), spread=spread)
    n = x.numel()
    assert abs(float(x.mean()) - 1.5) < 4 * 0.7 / n**0.5 + 0.01
    assert abs(float(x.std()) / 0.7 - 1) < 4 / (2 * n) ** 0.5 + 0.01


@pytest.mark.parametrize(
    "path", [lambda n: Schedule(1000, "cosine", n), StraightPath], ids=["diffusion", "flow"]
)
def test_deterministic_samplers_carry_noise_to_the_distribution(path):
    """For a Gaussian the exact flow maps the noise z to mu + s z. DDIM is of first order; the second order
    with half the steps is still several times closer."""
    z = pure_noise(torch.empty(*SHAPE), philox_key(1))
    error = {
        (sample, n): float((sample(gaussian, path(n), z, (1.5, 0.7)) - (1.5 + 0.7 * z)).abs().max())
        for sample in (sample_ddim, sample_dpmpp_2m)
        for n in (30, 60)
    }
    assert error[sample_ddim, 60] < 0.06
    assert 1.7 < error[sample_ddim, 30] / error[sample_ddim, 60] < 2.3
    assert error[sample_dpmpp_2m, 30] < error[sample_ddim, 60] / 4


def theirs(scheduler, x: Tensor, alphas: Tensor, condition: float) -> Tensor:
    """diffusers' own loop; x_0 is what the model predicts."""
    for t in scheduler.timesteps:
        level = Level(t, alphas[t].sqrt(), (1 - alphas[t]).sqrt())
        x = scheduler.step(bent(x, level, condition), t, x).prev_sample
    return x


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
@pytest.mark.parametrize("steps", [5, 25])
def test_ddim_is_that_of_diffusers(beta_schedule, steps):
    from diffusers import DDIMScheduler

    limits = {} if beta_schedule == "linear" else {"beta_start": 0.00085, "beta_end": 0.012}
    scheduler = DDIMScheduler(
        1000, beta_schedule=beta_schedule, prediction_type="sample", clip_sample=False, **limits
    )
    scheduler.set_timesteps(steps)
    ours = Spaced(1000, beta_schedule, steps, scheduler.timesteps)
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    expected = theirs(scheduler, z, scheduler.alphas_cumprod, 0.8)
    torch.testing.assert_close(sample_ddim(bent, ours, z, 0.8), expected, rtol=1e-3, atol=1e-3)


class Spaced(Schedule):
    """Our schedule at their timesteps."""

    def __init__(self, T: int, beta_schedule: str, steps: int, timesteps: Tensor) -> None:
        super().__init__(T, beta_schedule, steps)
        self.__dict__["timesteps"] = timesteps


def test_dpmpp_2m_is_that_of_diffusers():
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        1000, prediction_type="sample", algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(12)
    ours = Spaced(1000, "linear", 12, scheduler.timesteps)
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    x = z
    for i, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i]
        a = 1 / (sigma**2 + 1).sqrt()
        x = scheduler.step(bent(x, Level(t, a, sigma * a), 0.8), t, x).prev_sample
    torch.testing.assert_close(sample_dpmpp_2m(bent, ours, z, 0.8), x, rtol=1e-3, atol=1e-3)


def test_a_ddim_step_on_the_straight_path_is_the_euler_step_of_a_rectified_flow():
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    path = StraightPath(7)
    x = z
    for i, t in enumerate(path.levels.t):
        following = path.levels.t[i + 1] if i + 1 < 7 else torch.zeros(())
        velocity = (x - bent(x, Level(t, 1 - t, t), 0.8)) / t
        x = x + (following - t) * velocity
    torch.testing.assert_close(sample_ddim(bent, path, z, 0.8), x, rtol=1e-4, atol=1e-5)


def drift(x: Tensor, level: Level, condition: tuple[float, float]) -> Tensor:
    """E[eps - x_0 | x_t] where x_0 ~ N(mu, s^2) and x_t = (1 - t) x_0 + t eps."""
    (mu, s), t = condition, level.t.reshape(-1, *[1] * (x.dim() - 1))
    return -mu + (t - (1 - t) * s**2) / (t**2 + (1 - t) ** 2 * s**2) * (x - (1 - t) * mu)


def test_heun_carries_noise_to_the_distribution_at_second_order():
    """The exact flow maps the noise z to mu + s z: half the step, a quarter of the error."""
    z = pure_noise(torch.empty(*SHAPE, dtype=torch.float64), philox_key(1))
    error = [
        float((sample_heun(drift, StraightPath(n), z, (1.5, 0.7)) - (1.5 + 0.7 * z)).abs().max())
        for n in (2, 40, 80, 160)
    ]
    assert error[0] < 0.1 * float(z.abs().max())
    assert 3.6 < error[1] / error[2] < 4.4
    assert 3.6 < error[2] / error[3] < 4.4


def test_heun_goes_straight_where_the_velocity_does_not_change():
    """One Heun step is then exact; what x_0 is must not depend on how many there are."""
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    for steps in (1, 3):
        x = sample_heun(lambda x, level, condition: condition, StraightPath(steps), z, z - 2.5)
        torch.testing.assert_close(x, torch.full(SHAPE, 2.5))


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_loss_of_a_flow_is_least_at_its_drift(t):
    """What is left there is the variance of eps - x_0 given x_t: s^2 / (t^2 + (1 - t)^2 s^2)."""
    key, n, normal = philox_key(5), 20_000, (1.5, 0.7)
    x_0 = 1.5 + 0.7 * torch.randn(n, 3, generator=torch.Generator().manual_seed(1))
    at = torch.full((n,), t)
    least = float(flow_loss(drift, x_0, at, normal, key=key).mean())
    assert abs(least / (0.49 / (t**2 + (1 - t) ** 2 * 0.49)) - 1) < 4 * (2 / (3 * n)) ** 0.5
    other = flow_loss(lambda *where: drift(*where) + 0.5, x_0, at, normal, key=key)
    assert float(other.mean()) == pytest.approx(least + 0.25, abs=0.02)


def test_guidance_goes_on_from_nothing_through_what_is_asked_for():
    def constant(x: Tensor, level: Level, condition: float) -> Tensor:
        return torch.full_like(x, condition)

    z = pure_noise(torch.empty(*SHAPE), philox_key(1))
    x = sample_ddim(guided(constant, 3.0), StraightPath(4), z, (2.0, 0.5))
    torch.testing.assert_close(x, torch.full(SHAPE, 0.5 + 3.0 * 1.5))


def test_noise_is_noise_and_a_row_has_its_own():
    key = philox_key(9)
    x = pure_noise(torch.empty(5, 4000), key)
    assert abs(float(x.mean())) < 4 / x.numel() ** 0.5
    assert abs(float(x.std()) - 1) < 4 / (2 * x.numel()) ** 0.5
    assert torch.equal(pure_noise(torch.empty(1, 4000), key, torch.tensor([3])), x[3:4])


def test_the_loss_is_that_of_the_velocity():
    schedule, key = Schedule(1000, "cosine", 8), philox_key(2)
    x_0, t = torch.randn(6, 3, 4), torch.tensor([0, 1, 10, 300, 700, 999])
    row_ids = torch.tensor([5, 5, 0, 1, 2, 8])
    loss, x_hat = diffusion_loss(bent, schedule, x_0, t, 0.8, key=key, row_ids=row_ids)
    x_t = ddpm_noise(x_0, t, schedule.noising, key=key, row_ids=row_ids).double()
    alpha_bar = schedule.alphas_cumprod.double()[t][:, None, None]
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    eps = (x_t - a * x_0) / s
    v, v_hat = a * eps - s * x_0, (a * x_t - x_hat) / s
    torch.testing.assert_close(loss.double(), (v - v_hat).square().flatten(1).mean(1), rtol=1e-3, atol=1e-5)
