"""The flow around a draft: its Gaussian, its two velocities, its draws and how wide they are."""

import pytest
import torch

from robustmdiff.diffusion.loss import flow_loss
from robustmdiff.diffusion.schedule import Level
from robustmdiff.generation.residual_flow import Known, ResidualFlow
from robustmdiff.ops import philox_key

VARIANCE = torch.tensor([2.0, 0.5, 0.1])


def new_flow(random: bool = True) -> ResidualFlow:
    torch.manual_seed(0)
    flow = ResidualFlow((3, 6, 5), beside=2, told=1, widths=(8, 16))
    flow.s.fill_(0.7)
    flow.variance.copy_(VARIANCE)
    if random:
        for p in flow.network.parameters():
            torch.nn.init.normal_(p, std=0.1)
    return flow


def known(n: int) -> Known:
    g = torch.Generator().manual_seed(1)
    draft, beside = (torch.randn(n, c, 6, 5, generator=g) for c in (3, 2))
    return Known(draft, beside, torch.randn(n, 1, generator=g))


def test_the_units_are_those_of_the_residuals():
    g = torch.Generator().manual_seed(1)
    residual = torch.randn(500, 3, 6, 5, generator=g) * torch.tensor([3.0, 1.0, 0.0]).view(3, 1, 1)
    flow = new_flow()
    flow.fit(residual)
    square = residual.double().square().mean((0, 2, 3))
    assert float(flow.s) == pytest.approx(float(square.mean().sqrt()), rel=1e-6)
    expected = (square / square.mean()).float()
    torch.testing.assert_close(flow.variance[:2], expected[:2])
    assert flow.variance[2] > 0  # a channel that the draft knows leaves a number to divide by


def test_an_untrained_one_is_the_flow_of_its_gaussian():
    """E[eps - x_0 | x_t] of independent N(0, variance) and N(0, 1), by their covariance with x_t."""
    flow, t = new_flow(random=False), torch.tensor([0.0, 0.3, 0.9, 1.0])
    x = torch.randn(4, 3, 6, 5)
    at, variance = t.view(-1, 1, 1, 1).double(), VARIANCE.double().view(-1, 1, 1)
    covariance = at * 1 - (1 - at) * variance
    expected = covariance / ((1 - at) ** 2 * variance + at**2) * x
    v = flow.velocity(x, Level(t, 1 - t, t), known(4))
    torch.testing.assert_close(v.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_its_draws_have_the_residuals_variance_after_any_number_of_steps(steps):
    flow, around = new_flow(random=False), known(25)
    r = (flow.sample(around, 40, steps, key=philox_key(3)) - around.draft[:, None]) / 0.7
    expected = VARIANCE * torch.ones(3)
    # 30,000 numbers a channel: the relative standard error of a variance is (2 / 30,000)^.5 = .008
    torch.testing.assert_close(r.square().mean((0, 1, 3, 4)), expected, rtol=0.035, atol=0)


@torch.no_grad()
def test_turn_is_the_velocity_in_units_of_the_gaussian():
    """y = x / total^.5, so dy/dt = (v - x total' / (2 total)) / total^.5, by a difference."""
    flow, around = new_flow().double(), Known(*(each.double() for each in known(2)))
    y = torch.randn(2, 3, 6, 5, dtype=torch.float64)

    def total(t: float) -> torch.Tensor:
        return ((1 - t) ** 2 * VARIANCE.double() + t**2).view(-1, 1, 1)

    for t in (0.05, 0.4, 0.95):
        level = Level(*(torch.full((), each, dtype=torch.float64) for each in (t, 1 - t, t)))
        slope = (total(t + 1e-5) - total(t - 1e-5)) / 2e-5
        x = y * total(t).sqrt()
        v = flow.velocity(x, level, around)
        expected = (v - x * slope / (2 * total(t))) / total(t).sqrt()
        torch.testing.assert_close(flow.turn(y, level, around), expected, rtol=1e-6, atol=1e-8)


@torch.no_grad()
def test_the_loss_is_that_of_a_flow_from_the_draft_in_units_of_s():
    flow, around = new_flow(), known(4)
    z, t, rows = torch.randn(4, 3, 6, 5), torch.rand(4), torch.tensor([5, 0, 9, 2])
    loss = flow.loss(z, t, around, key=philox_key(1), row_ids=rows)
    x_0 = (z - around.draft) / 0.7
    expected = flow_loss(flow.velocity, x_0, t, around, key=philox_key(1), row_ids=rows)
    torch.testing.assert_close(loss, expected)


@torch.no_grad()
def test_a_draw_depends_on_its_key_its_row_and_its_number_alone():
    flow, around, rows = new_flow(), known(5), torch.tensor([8, 3, 0, 12, 4])
    draws = flow.sample(around, 3, 2, key=philox_key(1), row_ids=rows)
    assert draws.shape == (5, 3, 3, 6, 5)
    again = flow.sample(around, 3, 2, key=philox_key(1), row_ids=rows)
    assert torch.equal(draws, again)
    alone = flow.sample(Known(*(each[3:4] for each in around)), 2, 2, key=philox_key(1), row_ids=rows[3:4])
    torch.testing.assert_close(alone[0], draws[3, :2], rtol=1e-4, atol=1e-5)
    other = flow.sample(around, 3, 2, key=philox_key(2), row_ids=rows)
    assert not torch.isclose(draws, other).any(dim=2).all()
    assert not torch.allclose(draws[:, 0], draws[:, 1])


@torch.no_grad()
def test_the_width_is_fitted_to_those_whom_the_draft_does_not_know():
    """Their residuals are 1.5 and .6 times as wide as those the flow was fitted to; in the third channel 9
    times, which is more than is believed."""
    flow, around = new_flow(random=False), known(200)
    g = torch.Generator().manual_seed(2)
    factor = torch.tensor([1.5, 0.6, 9.0])
    r = torch.randn(200, 3, 6, 5, generator=g) * (factor * VARIANCE.sqrt()).view(3, 1, 1)
    z = around.draft + 0.7 * r
    found = flow.fit_width(z, around, 2, key=philox_key(4), row_ids=torch.arange(200))
    # 6,000 residuals and 24,000 draws a channel: relative standard errors of a width .009 and .005
    torch.testing.assert_close(flow.width, torch.tensor([1.5, 0.6, 4.0]), rtol=0.05, atol=0)
    v, e = VARIANCE.sum(), (VARIANCE * factor.square()).sum()
    assert found["of_width_1"] == pytest.approx(float(5 / 4 * v / (e + v / 4)), rel=0.05)
    fitted = (VARIANCE * flow.width.square()).sum()
    assert found["spread_over_skill"] == pytest.approx(float(5 / 4 * fitted / (e + fitted / 4)), rel=0.05)
