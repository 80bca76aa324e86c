from __future__ import annotations

import pytest
import torch

from robustmdiff.diffusion.schedule import Schedule


@pytest.mark.parametrize(("ours", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
@pytest.mark.parametrize(("T", "steps"), [(1000, 8), (60, 7), (50, 50)])
def test_the_schedule_is_that_of_diffusers(ours, theirs, T, steps):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(T, beta_schedule=theirs)
    schedule = Schedule(T, ours, steps)
    torch.testing.assert_close(schedule.alphas_cumprod, scheduler.alphas_cumprod, rtol=1e-5, atol=1e-7)
    assert len(schedule.timesteps) == steps
    assert schedule.timesteps[0] == T - 1
    assert (schedule.timesteps.diff() < 0).all()
    assert (schedule.timesteps >= 0).all()


def test_with_all_steps_the_table_has_every_timestep():
    assert Schedule(T=9, steps=9).timesteps.tolist() == list(range(8, -1, -1))
    assert Schedule(T=9, steps=9).table.shape == (9, 8)
