from __future__ import annotations

import pytest
import torch
from torch import nn

from robustmdiff.diffusion.denoiser import LatentDenoiser
from robustmdiff.diffusion.sample import pure_noise, sample_ddpm
from robustmdiff.diffusion.schedule import Level, Schedule
from robustmdiff.ops import philox_key

NOTHING = torch.zeros(0, 4), torch.zeros(3, 2, 2, dtype=torch.int32)


@pytest.fixture
def model() -> LatentDenoiser:
    torch.manual_seed(0)
    return LatentDenoiser(latent=5, d_h=4, modalities=2, width=12, depth=1, heads=2)


def draw(model, x_m, m, view, tokens, segments, draws):
    condition = model.condition_on(x_m, m, view, tokens, segments)
    key, row_ids = philox_key(2), torch.arange(draws).repeat(len(x_m))
    x = pure_noise(x_m.new_empty(len(x_m) * draws, 5), key, row_ids)
    spread = condition.spread.repeat_interleave(draws, 0)
    x = sample_ddpm(model, Schedule(60, "cosine", 4), x, condition, key=key, row_ids=row_ids, spread=spread)
    return x.view(-1, draws, 5)


def test_before_training_it_is_the_exact_denoiser_of_a_gaussian(model):
    x_t, x_m = torch.randn(21, 5), torch.randn(3, 5)
    m = torch.tensor([[True, False]]).expand(3, 2)
    view = torch.ones(3, 2, dtype=torch.bool)
    condition = model.condition_on(x_m, m, view, *NOTHING)
    sigma2 = condition.spread[0, 0].item()
    assert sigma2 == pytest.approx(0.3**2 + 0.02**2, rel=1e-4)
    mean = x_m.repeat_interleave(7, 0)
    for alpha_bar in (0.0, 0.3, 0.97, 1.0):
        level = Level(torch.tensor(0), torch.tensor(alpha_bar).sqrt(), torch.tensor(1 - alpha_bar).sqrt())
        gain = alpha_bar**0.5 * sigma2 / (alpha_bar * sigma2 + 1 - alpha_bar)
        expected = mean + gain * (x_t - alpha_bar**0.5 * mean)
        torch.testing.assert_close(model(x_t, level, condition), expected, rtol=1e-4, atol=1e-5)


def test_one_level_for_all_rows_is_the_same_level_for_each(model):
    nn.init.normal_(model.leave.weight)
    tokens, segments = (
        torch.randn(4, 4),
        torch.tensor([[[0, 2], [2, 1]], [[0, 0], [3, 1]]], dtype=torch.int32),
    )
    m = segments[..., 1] > 0
    condition = model.condition_on(torch.randn(2, 5), m, m | True, tokens, segments)
    x, schedule = torch.randn(6, 5), Schedule(60)
    together = model(x, schedule.at(torch.tensor(31)), condition)
    torch.testing.assert_close(
        together, model(x, schedule.at(torch.full((6,), 31)), condition), rtol=1e-4, atol=1e-5
    )


def test_where_nothing_is_added_the_draws_stay_at_what_is_known(model):
    nn.init.normal_(model.leave.weight)
    x_m, m = torch.randn(3, 5), torch.tensor([[True, False]]).expand(3, 2)
    x = draw(model, x_m, m, m, *NOTHING, draws=50)
    assert (x - x_m[:, None]).std() < 0.1


def test_a_patients_draws_do_not_depend_on_the_batch_and_extend(model):
    nn.init.normal_(model.leave.weight)
    tokens = torch.randn(6, 4)
    segments = torch.tensor([[[0, 2], [2, 1]], [[0, 0], [3, 2]], [[5, 1], [0, 0]]], dtype=torch.int32)
    x_m, m = torch.randn(3, 5), segments[..., 1] > 0
    view = torch.ones_like(m)
    together = draw(model, x_m, m, view, tokens, segments, draws=6)
    one = slice(1, 2)
    alone = draw(model, x_m[one], m[one], view[one], tokens, segments[one], draws=6)
    torch.testing.assert_close(alone, together[one], rtol=1e-4, atol=1e-5)
    fewer = draw(model, x_m, m, view, tokens, segments, draws=4)
    torch.testing.assert_close(fewer, together[:, :4], rtol=1e-4, atol=1e-5)
