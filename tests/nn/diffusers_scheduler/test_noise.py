"""`add_noise` and its relatives over what diffusers' own take: shapes that broadcast, dtypes, timesteps."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff.nn import FusedDDPMScheduler
from robustmdiff.ops import philox_key
from tests.nn.diffusers_scheduler.pairs import OURS, PAIRS, agree, as_exact, outcome, seeded, tensors, wide

pytestmark = pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
T = 20
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
shapes = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=0, max_size=4)


@st.composite
def noisings(draw):
    """A sample, a noise and timesteps that mostly broadcast, and sometimes not."""
    shape = draw(shapes)
    kept = [1 if draw(st.booleans()) else size for size in shape]
    noise_shape = draw(st.sampled_from([shape, kept, kept[1:], [*shape, 2]]))
    first = shape[0] if shape else 1
    time_shape = draw(st.sampled_from([(), (1,), (first,), (first, 1), (3,), (2, 2)]))
    dtype = draw(st.sampled_from([torch.int64, torch.int32, torch.int16, torch.uint8, torch.float32]))
    low = 0 if dtype == torch.uint8 or draw(st.booleans()) else -T - 1
    high = draw(st.sampled_from([T, T, T + 2]))
    t = torch.randint(low, high, time_shape, generator=seeded(draw(st.integers(0, 99)))).to(dtype)
    x, noise = (torch.randn(s, generator=seeded(i)) for i, s in enumerate((shape, noise_shape)))
    same = draw(st.sampled_from(FLOATS))
    return x.to(same), noise.to(draw(st.sampled_from([same, same, *FLOATS]))), t


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
@settings(max_examples=50, deadline=None)
@given(given_=noisings(), zero_snr=st.booleans())
def test_noise_is_added_where_and_as_diffusers_adds_it(theirs, ours, method, given_, zero_snr):
    x, noise, t = given_
    a, b = (s(num_train_timesteps=T, rescale_betas_zero_snr=zero_snr) for s in (theirs, ours))
    expected, found = (outcome(lambda s=s: getattr(s, method)(x, noise, t)) for s in (a, b))
    if isinstance(expected, type) or isinstance(found, type):
        agree(found, expected)
    else:
        exact = getattr(wide(a), method)(x.double(), noise.double(), t)
        as_exact(found, expected, exact, method)


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
@pytest.mark.parametrize(
    ("samples", "noises", "timesteps", "dtype"),
    [
        pytest.param(1, 1, [900, 500, 1], torch.float32, id="one-sample-at-three-times"),
        pytest.param(2, 2, [[3], [4]], torch.float32, id="timesteps-in-a-column"),
        pytest.param(2, 1, [3, 4], torch.float32, id="one-noise-for-two-samples"),
        pytest.param(1, 1, [3], torch.bfloat16, id="noise-wider-than-the-sample"),
        pytest.param(2, 2, -1, torch.float32, id="the-last-counted-from-the-end"),
    ],
)
def test_float32_noise_for(theirs, ours, samples, noises, timesteps, dtype):
    x = torch.randn(samples, 1, 8, 5, generator=seeded(0)).to(dtype)
    noise = torch.randn(noises, 1, 8, 5, generator=seeded(1))
    t = torch.tensor(timesteps)
    found = ours().add_noise(x, noise, t)
    assert found.shape == (max(samples, t.numel()), 1, 8, 5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, theirs().add_noise(x, noise, t))


@pytest.mark.parametrize("ours", OURS)
def test_the_timesteps_of_a_key_are_those_of_the_schedule(ours):
    scheduler = ours(num_train_timesteps=T)
    x, key = tensors(0)[0], philox_key(3)
    for t in (torch.tensor([T, 0]), torch.tensor([0, -1])):
        with pytest.raises(ValueError, match=r"step\[\d\] is (20|-1), expected 0 to 19"):
            scheduler.add_noise(x, None, t, key=key)
    with pytest.raises(ValueError, match=r"timestep is torch.int64 \[3\].* integers \[2\]"):
        scheduler.add_noise(x, None, torch.tensor([1, 2, 3]), key=key)


@pytest.mark.parametrize("ours", OURS)
def test_where_nothing_waits_a_wrong_timestep_is_an_assertion(ours):
    scheduler = ours(num_train_timesteps=T)
    x, noise = tensors(0, 1)
    add = torch.compile(scheduler.add_noise, fullgraph=True, backend="aot_eager")
    t = torch.tensor([3, -2])  # the second counted from the end
    torch.testing.assert_close(add(x, noise, t), scheduler.add_noise(x, noise, t))
    for wrong in ([0, T], [-T - 1, 0]):
        with pytest.raises(RuntimeError, match="timesteps: expected 0 to 19"):
            add(x, noise, torch.tensor(wrong))


def test_gradients_pass_through_noising_as_in_diffusers():
    found = []
    for scheduler in (DDPMScheduler(), FusedDDPMScheduler()):
        x, noise = (tensor.requires_grad_() for tensor in tensors(0, 1))
        scheduler.add_noise(x, noise, torch.tensor([3, 500])).square().sum().backward()
        found.append((x.grad, noise.grad))
    torch.testing.assert_close(*found)


def test_noising_under_vmap_over_timesteps():
    x, noise, t = *tensors(0, 1), torch.tensor([3, 500])
    found = torch.func.vmap(FusedDDPMScheduler().add_noise)(x, noise, t)
    torch.testing.assert_close(found, DDPMScheduler().add_noise(x, noise, t))
    with pytest.raises(IndexError):
        torch.func.vmap(FusedDDPMScheduler().add_noise)(x, noise, torch.tensor([3, 1000]))
