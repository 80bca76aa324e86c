"""A fused step against diffusers' own."""

from __future__ import annotations

import math

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
    PREDICTIONS,
    agree,
    configurations,
    exact_step,
    outcome,
    seeded,
    steps_as_exact,
    tensors,
    unclipped,
)

TWO = (FusedDDPMScheduler, DDPMScheduler)


def both(theirs, ours, config, data):
    """Both schedulers with the same timesteps, and one of these."""
    T = config["num_train_timesteps"]
    a = theirs(**config)
    b = ours.from_config(a.config)
    how = {"num_inference_steps": data.draw(st.integers(1, T), label="steps")}
    if theirs is DDPMScheduler:
        own = st.sets(st.integers(-T, T - 1), min_size=1, max_size=9).map(sorted).map(lambda t: t[::-1])
        how = data.draw(st.sampled_from([how, None]) | own.map(lambda t: {"timesteps": t}), label="how")
    for scheduler in (a, b):
        if how is not None:
            scheduler.set_timesteps(**how)
    assert torch.equal(a.timesteps, b.timesteps)
    times = a.timesteps if how else torch.arange(-T, T)
    times = [t for t in times if -T <= t < T] or [torch.tensor(0)]
    return a, b, data.draw(st.sampled_from(times), label="timestep")


VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range", "other"]


@settings(max_examples=25, deadline=None)
@given(configurations, st.sampled_from(VARIANCES), st.data())
def test_ddpm_steps_as_diffusers_does(config, variance_type, data):
    a, b, t = both(DDPMScheduler, FusedDDPMScheduler, config | {"variance_type": variance_type}, data)
    x, output, variance = tensors(0, 1, 2)
    if variance_type == "learned":
        output = torch.cat([output, variance.abs()], 1)
    elif variance_type == "learned_range":
        output = torch.cat([output, variance.tanh()], 1)
    theirs = outcome(lambda: a.step(output, t, x, generator=seeded(3)))
    if isinstance(theirs, type):  # steps_offset moves the noisiest timestep out of the schedule
        with pytest.raises(theirs):
            b.step(output, t, x)
        return
    found = b.step(output, t, x, generator=seeded(3))
    noise = torch.randn(x.shape, generator=seeded(3))
    exact, loose = exact_step(a, output, t, x, seed=3), unclipped(a)
    free = loose.step(output, t, x, generator=seeded(3)), exact_step(loose, output, t, x, seed=3)
    steps_as_exact(found, theirs, exact, free)
    if not config["clip_sample"] or config["thresholding"] or 0 < config["clip_sample_range"] < math.inf:
        steps_as_exact(b.step(output, t, x, noise=noise), theirs, exact, free)


@settings(max_examples=25, deadline=None)
@given(configurations, st.booleans(), st.sampled_from([-0.5, 0, 0.4, 1.0]), st.booleans(), st.data())
def test_ddim_steps_as_diffusers_does(config, set_alpha_to_one, eta, use_clipped, data):
    config = config | {"set_alpha_to_one": set_alpha_to_one}
    a, b, t = both(DDIMScheduler, FusedDDIMScheduler, config, data)
    x, output = tensors(0, 1)
    how = {"eta": eta, "use_clipped_model_output": use_clipped}
    theirs, found = (scheduler.step(output, t, x, generator=seeded(3), **how) for scheduler in (a, b))
    noise = torch.randn(x.shape, generator=seeded(3))
    exact, loose = exact_step(a, output, t, x, seed=3, **how), unclipped(a)
    free = (
        loose.step(output, t, x, generator=seeded(3), **how),
        exact_step(loose, output, t, x, seed=3, **how),
    )
    steps_as_exact(found, theirs, exact, free)
    given_noise = b.step(output, t, x, variance_noise=noise, return_dict=False, **how)
    torch.testing.assert_close(given_noise[0], found.prev_sample, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [-0.5, 0, 0.0, 0.5])
def test_any_eta_that_ddim_takes(prediction, clip, eta):
    """A negative one narrows the direction and adds no noise."""
    a, b = (s(prediction_type=prediction, clip_sample=clip) for s in (DDIMScheduler, FusedDDIMScheduler))
    x, output = tensors(0, 1)
    for scheduler in (a, b):
        scheduler.set_timesteps(20)
    theirs, found = (s.step(output, 500, x, eta, generator=seeded()) for s in (a, b))
    steps_as_exact(found, theirs, exact_step(a, output, 500, x, eta=eta))


def chain(scheduler, x, generator, **how):
    """A sampling loop as pipelines write it, with a made-up model."""
    for t in scheduler.timesteps:
        x = scheduler.step((0.3 * x + t / 100).sin(), t, x, generator=generator, **how).prev_sample
    return x


@pytest.mark.parametrize("generators", [1, 2], ids=["one-generator", "one-for-each-sample"])
def test_a_whole_ddpm_chain_and_the_generator_after_it(generators):
    found = []
    for scheduler in (DDPMScheduler(clip_sample=False), FusedDDPMScheduler(clip_sample=False)):
        scheduler.set_timesteps(20)
        drawing = [seeded(i) for i in range(generators)]
        x = chain(scheduler, tensors(0)[0], drawing if generators == 2 else drawing[0])
        found.append((x, *(torch.randn(3, generator=generator) for generator in drawing)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(found[0][1], found[1][1])  # the last step drew nothing


def test_a_whole_ddim_chain():
    found = []
    for scheduler in (DDIMScheduler(), FusedDDIMScheduler()):
        scheduler.set_timesteps(20)
        found.append(chain(scheduler, tensors(0)[0], seeded(1), eta=0.5))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_a_timestep_that_diffusers_adds_by_rounding(theirs, ours):
    """1000 trailing timesteps in 61 steps end with -1."""
    a, b = theirs(timestep_spacing="trailing"), ours(timestep_spacing="trailing")
    for scheduler in (a, b):
        scheduler.set_timesteps(61)
    assert a.timesteps[-1] == -1
    x, output = tensors(0, 1)
    for t in a.timesteps[-3:]:
        found, expected = (s.step(output, t, x, generator=seeded(), return_dict=False) for s in (b, a))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_all_training_timesteps_and_custom_ones():
    a, b = DDPMScheduler(num_train_timesteps=40), FusedDDPMScheduler(num_train_timesteps=40)
    x, output = tensors(0, 1)
    for custom in (None, [39, 20, 3]):
        if custom:
            for scheduler in (a, b):
                scheduler.set_timesteps(timesteps=custom)
        for t in (39, 3):
            found, expected = (s.step(output, t, x, generator=seeded(), return_dict=False) for s in (b, a))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ours", OURS)
def test_a_key_belongs_to_the_sample_and_not_to_the_batch(ours):
    scheduler = ours(num_train_timesteps=100)
    scheduler.set_timesteps(10)
    x, output = tensors(0, 1)
    key, row_ids, t = philox_key(7), torch.tensor([30, 4]), scheduler.timesteps[3]
    how = {"eta": 1.0} if ours is FusedDDIMScheduler else {}
    both = scheduler.step(output, t, x, key=key, row_ids=row_ids, **how).prev_sample
    alone = scheduler.step(output[1:], t, x[1:], key=key, row_ids=row_ids[1:], **how).prev_sample
    assert torch.equal(both[1:], alone)
    noised = scheduler.add_noise(x, None, t, key=key, row_ids=row_ids)
    assert torch.equal(noised[1:], scheduler.add_noise(x[1:], None, t, key=key, row_ids=row_ids[1:]))


@pytest.mark.parametrize("ours", OURS)
def test_x0_may_be_left_out(ours):
    scheduler = ours()
    scheduler.set_timesteps(10)
    x, output = tensors(0, 1)
    full = scheduler.step(output, 500, x, generator=seeded())
    scheduler.predict_x0 = False
    found = scheduler.step(output, 500, x, generator=seeded())
    assert torch.equal(found.prev_sample, full.prev_sample)
    assert found.pred_original_sample is None
    assert scheduler.step(output, 500, x, return_dict=False)[1] is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_narrow_dtypes_are_steps_as_exact(theirs, ours, dtype):
    a, b = theirs(num_train_timesteps=100), ours(num_train_timesteps=100)
    for scheduler in (a, b):
        scheduler.set_timesteps(10)
    x, output = (tensor.to(dtype) for tensor in tensors(0, 1))
    t = a.timesteps[4]
    found, expected = (s.step(output, t, x, generator=seeded()).prev_sample for s in (b, a))
    noise = torch.randn(x.shape, generator=seeded(), dtype=dtype)
    extra = {"noise": noise.double()} if ours is FusedDDPMScheduler else {}
    exact = b.step(output.double(), t, x.double(), **extra).prev_sample
    assert found.dtype == expected.dtype == dtype
    assert (found - exact).abs().max() <= 2 * (expected - exact).abs().max()
    assert b.step(output, t, x.float(), generator=seeded()).prev_sample.dtype == torch.float32


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_the_gradient_is_diffusers(theirs, ours):
    found = []
    for scheduler in (theirs(), ours()):
        scheduler.set_timesteps(10)
        x, output = (tensor.requires_grad_() for tensor in tensors(0, 1))
        step = scheduler.step(output, 500, x, generator=seeded())
        (step.prev_sample.square().sum() + step.pred_original_sample.sum()).backward()
        found.append((x.grad, output.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
@settings(max_examples=25, deadline=None)
@given(
    sizes=st.sampled_from([((2, 3, 4), (2, 3, 4)), ((1, 3, 4), (2, 3, 4)), ((2, 3, 4), (2, 1, 4)), ((), ())]),
    dtypes=st.tuples(st.sampled_from(FLOATS), st.sampled_from(FLOATS)),
    config=configurations,
    t=st.sampled_from([0, 3, torch.tensor(3), torch.tensor([3])]),
)
def test_shapes_that_broadcast_and_dtypes_that_differ(theirs, ours, sizes, dtypes, config, t):
    x, output = (
        torch.randn(size, generator=seeded(i)).to(dtype)
        for i, (size, dtype) in enumerate(zip(sizes, dtypes, strict=True))
    )
    a, b = theirs(**config), ours(**config)
    for scheduler in (a, b):
        scheduler.set_timesteps(config["num_train_timesteps"])
    expected, found = (outcome(lambda s=s: s.step(output, t, x, generator=seeded())) for s in (a, b))
    if isinstance(expected, type):
        assert found is expected
    else:
        steps_as_exact(found, expected, exact_step(a, output, t, x))


@pytest.mark.parametrize("variance_type", ["learned", "learned_range", "fixed_large_log"])
def test_the_last_step_needs_no_variance(variance_type):
    x, output = tensors(0, 1)
    found = [s(variance_type=variance_type).step(output, 0, x, return_dict=False) for s in TWO]
    agree(*found)


def test_a_variance_type_changed_in_one_place_only():
    """diffusers keeps it as an attribute and in the configuration, and reads both."""
    x, output = tensors(0, 1)
    for change in ("variance_type", "config"):
        for to in ("fixed_large", "fixed_small_log"):
            found = []
            for scheduler in TWO:
                scheduler = scheduler()
                if change == "config":
                    scheduler.register_to_config(variance_type=to)
                else:
                    scheduler.variance_type = to
                found.append(scheduler.step(output, 900, x, generator=seeded(), return_dict=False))
            agree(*found)
