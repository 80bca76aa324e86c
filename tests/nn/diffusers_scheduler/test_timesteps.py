"""What a timestep may be: as in diffusers, the same number or the same error; and one for each sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff.nn import FusedDDIMScheduler, FusedDDPMScheduler
from robustmdiff.ops import philox_key
from tests.nn.diffusers_scheduler.pairs import (
    OURS,
    PAIRS,
    agree,
    exact_step,
    outcome,
    seeded,
    steps_as_exact,
    tensors,
)

pytestmark = pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
T = 20
DTYPES = [torch.int64, torch.int32, torch.int16, torch.uint8, torch.float32, torch.float64]


@st.composite
def timesteps(draw):
    """Numbers and tensors around the schedule, whole and fractional."""
    whole = draw(st.integers(-T - 3, T + 3))
    kind = draw(st.sampled_from(["int", "float", "numpy int", "numpy float", "tensor"]))
    if kind != "tensor":
        make = {"int": int, "float": float, "numpy int": np.int64, "numpy float": np.float32}[kind]
        return make(whole + (draw(st.sampled_from([0, 0.9])) if "float" in kind else 0))
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([(), (1,)]))
    return torch.full(shape, abs(whole) if dtype == torch.uint8 else whole, dtype=dtype)


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
@settings(max_examples=150, deadline=None)
@given(
    t=timesteps(),
    offset=st.sampled_from([0, 1]),
    steps=st.sampled_from([None, 4, T]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_timestep_is_taken_where_diffusers_takes_it(theirs, ours, t, offset, steps, dtype):
    a, b = (s(num_train_timesteps=T, steps_offset=offset) for s in (theirs, ours))
    for scheduler in (a, b):
        if steps is not None:
            scheduler.set_timesteps(steps)
    x, output = (tensor.to(dtype) for tensor in tensors(0, 1))
    expected, found = (outcome(lambda s=s: s.step(output, t, x, generator=seeded())) for s in (a, b))
    if isinstance(expected, type):
        assert found is expected
    else:
        steps_as_exact(found, expected, exact_step(a, output, t, x))


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_a_timestep_outside_a_shifted_schedule(theirs, ours):
    """With steps_offset the first of as many steps as there are timesteps lies beyond the last alpha."""
    found = []
    for scheduler in (ours, theirs):
        scheduler = scheduler(num_train_timesteps=100, steps_offset=1)
        scheduler.set_timesteps(100)
        assert scheduler.timesteps[0] == 100
        x, output = tensors(0, 1)
        with pytest.raises(IndexError):
            scheduler.step(output, scheduler.timesteps[0], x)
        found.append([scheduler.step(output, t, x, generator=seeded()).prev_sample for t in (50, 49)])
    agree(*found)


def test_timesteps_that_nobody_has_set():
    """Until they are set, t - 1 follows t, whatever is assigned to `timesteps`; and they need not descend."""
    for assigned, times in (([9, 6, 3], [7, 9, 3]), ([3, 9, 3, 6], [3, 9, 6])):
        found = []
        for scheduler in (FusedDDPMScheduler(num_train_timesteps=T), DDPMScheduler(num_train_timesteps=T)):
            if len(assigned) == 4:
                scheduler.set_timesteps(4)
            scheduler.timesteps = torch.tensor(assigned)
            x, output = tensors(0, 1)
            found.append([scheduler.step(output, t, x, generator=seeded()).prev_sample for t in times])
        agree(*found)


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_fewer_betas_than_training_timesteps(theirs, ours):
    found = []
    for scheduler in (ours, theirs):
        scheduler = scheduler(trained_betas=np.array([0.1, 0.3]))
        if theirs is DDIMScheduler:
            scheduler.set_timesteps(10)
        x, output = tensors(0, 1)
        found.append([scheduler.step(output, t, x, generator=seeded()).prev_sample for t in (1, 0)])
        with pytest.raises(IndexError):
            scheduler.step(output, 2, x)
    agree(*found)


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_timestep_for_each_sample(ours, dtype):
    scheduler = ours(num_train_timesteps=100)
    scheduler.set_timesteps(10)
    x, output, noise = tensors(0, 1, 2)
    how, name = ({"eta": 0.5}, "variance_noise") if ours is FusedDDIMScheduler else ({}, "noise")
    t = scheduler.timesteps[torch.tensor([2, -1])].to(dtype)
    together = scheduler.step(output, t, x, **how, **{name: noise})
    for i in range(2):
        alone = scheduler.step(output[[i]], t[i], x[[i]], **how, **{name: noise[[i]]})
        assert torch.equal(together.prev_sample[[i]], alone.prev_sample)
        assert torch.equal(together.pred_original_sample[[i]], alone.pred_original_sample)


@pytest.mark.parametrize("ours", OURS)
def test_where_nothing_waits_a_wrong_timestep_is_an_assertion(ours):
    """A compiled graph does not look at values, and never goes on with the row of another timestep."""
    scheduler = ours(num_train_timesteps=50)
    scheduler.set_timesteps(10)
    x, output = tensors(0, 1)
    how = {"eta": 1.0} if ours is FusedDDIMScheduler else {}

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(output, t, x, key):
        return scheduler.step(output, t, x, key=key, return_dict=False, **how)

    key, right = philox_key(1), torch.tensor([45, 0])
    eager = scheduler.step(output, right, x, key=key, return_dict=False, **how)
    torch.testing.assert_close(step(output, right, x, key), eager)
    for wrong in ([45, 50], [-51, 0]):
        with pytest.raises(RuntimeError, match="timestep is one of several, unread, expected"):
            step(output, torch.tensor(wrong), x, key)


@pytest.mark.parametrize(
    ("ours", "timestep", "message"),
    [
        (FusedDDPMScheduler, 5, "timestep is 5, expected one of the 10 of scheduler.timesteps"),
        (FusedDDPMScheduler, torch.tensor([90, 91]), "timestep is 91, expected one of the 10 of"),
        (FusedDDPMScheduler, 90.5, "timestep is 90.5, expected an integer"),
        (FusedDDPMScheduler, torch.tensor(0.5), "timestep is torch.float32, expected an integer"),
        (FusedDDIMScheduler, 100, "timestep is 100, expected 0 to 99"),
        (FusedDDIMScheduler, torch.tensor([99, 1000]), "timestep is 1000, expected 0 to 99"),
        (FusedDDIMScheduler, 600.9, "timestep is 600.9, expected an integer"),
    ],
)
def test_the_error_names_the_timestep(ours, timestep, message):
    scheduler = ours(num_train_timesteps=100)
    scheduler.set_timesteps(10)
    x, output = tensors(0, 1)
    with pytest.raises(IndexError, match=message):
        scheduler.step(output, timestep, x)
