"""Coefficients against what diffusers computes on its way, bit for bit."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from robustmdiff.ops.ddpm import Coefficients, ddpm_table


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large", "learned_range"])
@pytest.mark.parametrize(
    "steps",
    [{"num_inference_steps": 37}, {"timesteps": [980, 512, 77, 3]}, None],
    ids=["spaced", "own", "all"],
)
def test_coefficients_have_the_bits_of_diffusers(variance_type, steps):
    scheduler = DDPMScheduler(variance_type=variance_type, beta_schedule="squaredcos_cap_v2")
    if steps is not None:
        scheduler.set_timesteps(**steps)
    table = ddpm_table(scheduler)
    assert table.shape == (len(scheduler.timesteps), 8)
    assert table.dtype == torch.float32
    checked = range(len(table)) if len(table) < 100 else [0, 1, 500, 998, 999]
    for i in checked:
        t = int(scheduler.timesteps[i])
        previous = scheduler.previous_timestep(t)
        alpha_bar = scheduler.alphas_cumprod[t]
        following = scheduler.alphas_cumprod[previous] if previous >= 0 else scheduler.one
        row = Coefficients(*table[i])
        assert row.sqrt_alpha_bar == alpha_bar**0.5
        assert row.sqrt_beta_bar == (1 - alpha_bar) ** 0.5
        beta = 1 - alpha_bar / following
        assert row.weight_x0 == (following**0.5 * beta) / (1 - alpha_bar)
        assert row.weight_xt == (alpha_bar / following) ** 0.5 * (1 - following) / (1 - alpha_bar)
        variance = scheduler._get_variance(t, predicted_variance=torch.tensor(-1.0))
        if variance_type == "learned_range":
            assert row.log_variance_min == variance
            highest = scheduler._get_variance(t, predicted_variance=torch.tensor(1.0))
            assert row.log_variance_max == highest
        elif t == 0:
            assert row.sigma == 0
        else:
            assert row.sigma == (variance if variance_type == "fixed_small_log" else variance**0.5)
        assert row.successor == i + 1


@pytest.mark.parametrize("variance_type", ["learned", "fixed_large_log"])
def test_a_variance_without_coefficients_is_refused(variance_type):
    with pytest.raises(
        ValueError, match=f"variance_type is '{variance_type}', expected one of 'fixed_small'"
    ):
        ddpm_table(DDPMScheduler(variance_type=variance_type))
