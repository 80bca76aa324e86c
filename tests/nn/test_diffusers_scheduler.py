"""The fused schedulers against diffusers' own."""

from __future__ import annotations

import copy
import json
import sys

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff.nn import FusedDDIMScheduler, FusedDDPMScheduler
from robustmdiff.ops import philox_key

PREDICTIONS = ["epsilon", "sample", "v_prediction"]
PAIRS = [
    pytest.param(DDPMScheduler, FusedDDPMScheduler, id="ddpm"),
    pytest.param(DDIMScheduler, FusedDDIMScheduler, id="ddim"),
]
EPS = torch.finfo(torch.float32).eps


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_exact_as_diffusers(found, theirs, exact):
    """At most twice diffusers' own error against float64 arithmetic with the same coefficients."""
    for field in ("prev_sample", "pred_original_sample"):
        x, y, truth = (output[field].double() for output in (found, theirs, exact))
        if truth.isnan().any() or y.isnan().any():  # 1 - alpha bar - sigma^2 fell below 0 by rounding
            torch.testing.assert_close(x, y, equal_nan=True, rtol=1e-5, atol=1e-5)
            continue
        size = truth.abs().max()
        budget = 2 * ((y - truth).abs().max() + EPS * size)
        assert (x - truth).abs().max() <= budget, f"{field}: {(x - truth).abs().max():.1e} > {budget:.1e}"


def wide(scheduler):
    """The same scheduler in float64, from the same float32 alphas."""
    made = copy.deepcopy(scheduler)
    made.alphas_cumprod = made.alphas_cumprod.double()
    if hasattr(made, "one"):
        made.one = made.one.double()
    else:
        made.final_alpha_cumprod = made.final_alpha_cumprod.double()
    return made


configurations = st.fixed_dictionaries(
    {
        "num_train_timesteps": st.sampled_from([7, 50, 100]),
        "beta_schedule": st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
        "prediction_type": st.sampled_from(PREDICTIONS),
        "clip_sample": st.booleans(),
        "clip_sample_range": st.sampled_from([0.5, 1.0, 2.0]),
        "thresholding": st.booleans(),
        "sample_max_value": st.sampled_from([1.0, 1.5]),
        "timestep_spacing": st.sampled_from(["leading", "trailing", "linspace"]),
        "steps_offset": st.sampled_from([0, 1]),
        "rescale_betas_zero_snr": st.booleans(),
    }
)


def both(theirs, ours, config, data):
    """Both schedulers with the same timesteps, and one of these."""
    if config["rescale_betas_zero_snr"] and config["prediction_type"] == "epsilon":
        config = config | {"prediction_type": "v_prediction"}  # epsilon divides by alpha bar = 0
    T = config["num_train_timesteps"]
    a = theirs(**config)
    b = ours.from_config(a.config)
    steps = data.draw(st.integers(1, T - 1), label="steps")
    for scheduler in (a, b):
        scheduler.set_timesteps(steps)
    assert torch.equal(a.timesteps, b.timesteps)
    return a, b, data.draw(st.sampled_from([t for t in a.timesteps if t < T]), label="timestep")


def tensors(*seeds: int) -> list[torch.Tensor]:
    return [torch.randn(2, 3, 5, 4, generator=seeded(seed)) for seed in seeds]


@settings(max_examples=120, deadline=None)
@given(
    configurations,
    st.sampled_from(["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"]),
    st.data(),
)
def test_ddpm_steps_as_diffusers_does(config, variance_type, data):
    a, b, t = both(DDPMScheduler, FusedDDPMScheduler, config | {"variance_type": variance_type}, data)
    x, output, variance = tensors(0, 1, 2)
    if variance_type == "learned":
        output = torch.cat([output, variance.abs()], 1)
    elif variance_type == "learned_range":
        output = torch.cat([output, variance.tanh()], 1)
    theirs, found = (scheduler.step(output, t, x, generator=seeded(3)) for scheduler in (a, b))
    noise = torch.randn(x.shape, generator=seeded(3))
    with pytest.MonkeyPatch.context() as patch:
        draw = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
        patch.setattr(draw, lambda *_, dtype, **__: noise.to(dtype))
        exact = wide(a).step(output.double(), t, x.double())
    as_exact_as_diffusers(found, theirs, exact)
    given_noise = b.step(output, t, x, noise=noise, return_dict=False)
    assert torch.equal(given_noise[0], found.prev_sample)
    assert torch.equal(given_noise[1], found.pred_original_sample)


@settings(max_examples=120, deadline=None)
@given(configurations, st.booleans(), st.sampled_from([0.0, 0.4, 1.0]), st.booleans(), st.data())
def test_ddim_steps_as_diffusers_does(config, set_alpha_to_one, eta, use_clipped, data):
    config = config | {"set_alpha_to_one": set_alpha_to_one}
    a, b, t = both(DDIMScheduler, FusedDDIMScheduler, config, data)
    x, output = tensors(0, 1)
    how = {"eta": eta, "use_clipped_model_output": use_clipped}
    theirs, found = (scheduler.step(output, t, x, generator=seeded(3), **how) for scheduler in (a, b))
    noise = torch.randn(x.shape, generator=seeded(3))
    exact = wide(a).step(output.double(), t, x.double(), variance_noise=noise.double(), **how)
    as_exact_as_diffusers(found, theirs, exact)
    given_noise = b.step(output, t, x, variance_noise=noise, return_dict=False, **how)
    torch.testing.assert_close(given_noise[0], found.prev_sample, rtol=0, atol=0, equal_nan=True)


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


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_noise_is_added_as_in_diffusers(theirs, ours):
    a, b = theirs(rescale_betas_zero_snr=True), ours(rescale_betas_zero_snr=True)
    x, noise = tensors(0, 1)
    for t in (torch.tensor([999, 0]), torch.tensor([4]), torch.tensor(17)):
        torch.testing.assert_close(b.add_noise(x, noise, t), a.add_noise(x, noise, t))
        torch.testing.assert_close(b.get_velocity(x, noise, t), a.get_velocity(x, noise, t))


@pytest.mark.parametrize("ours", [FusedDDPMScheduler, FusedDDIMScheduler])
def test_a_timestep_for_each_sample(ours):
    scheduler = ours(num_train_timesteps=100)
    scheduler.set_timesteps(10)
    x, output, noise = tensors(0, 1, 2)
    how, name = ({"eta": 0.5}, "variance_noise") if ours is FusedDDIMScheduler else ({}, "noise")
    t = scheduler.timesteps[torch.tensor([2, -1])]
    together = scheduler.step(output, t, x, **how, **{name: noise})
    for i in range(2):
        alone = scheduler.step(output[[i]], t[i], x[[i]], **how, **{name: noise[[i]]})
        assert torch.equal(together.prev_sample[[i]], alone.prev_sample)
        assert torch.equal(together.pred_original_sample[[i]], alone.pred_original_sample)


@pytest.mark.parametrize("ours", [FusedDDPMScheduler, FusedDDIMScheduler])
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


@pytest.mark.parametrize("ours", [FusedDDPMScheduler, FusedDDIMScheduler])
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
def test_narrow_dtypes_are_as_exact_as_diffusers(theirs, ours, dtype):
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


def test_a_step_with_a_key_compiles_whole():
    scheduler = FusedDDPMScheduler(num_train_timesteps=50)
    x, output = tensors(0, 1)
    t, key = torch.tensor([30, 2]), philox_key(1)
    eager = scheduler.step(output, t, x, key=key, return_dict=False)  # makes the tables

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(output, t, x, key):
        return scheduler.step(output, t, x, key=key, return_dict=False)

    torch.testing.assert_close(step(output, t, x, key), eager)


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_configurations_go_both_ways(theirs, ours, tmp_path):
    plain = theirs(num_train_timesteps=77, clip_sample=False, prediction_type="v_prediction")
    plain.save_pretrained(tmp_path / "theirs")
    fused = ours.from_pretrained(tmp_path / "theirs")
    fused.save_pretrained(tmp_path / "ours")
    back = theirs.from_pretrained(tmp_path / "ours")
    public = [{k: v for k, v in s.config.items() if k[0] != "_"} for s in (plain, fused, back)]
    assert public[0] == public[1] == public[2]
    assert type(back) is theirs
    assert theirs in ours.from_config(plain.config).compatibles
    assert torch.equal(copy.deepcopy(fused).timesteps, plain.timesteps)


def test_ddpm_and_ddim_configurations_go_into_each_other():
    scheduler = FusedDDIMScheduler.from_config(FusedDDPMScheduler(num_train_timesteps=77).config)
    assert scheduler.config.num_train_timesteps == 77
    assert FusedDDPMScheduler.from_config(scheduler.config).config.variance_type == "fixed_small"


def test_a_pipeline_is_saved_and_loaded_with_it(tmp_path):
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    DDPMPipeline(unet, FusedDDPMScheduler()).save_pretrained(tmp_path)
    assert type(DDPMPipeline.from_pretrained(tmp_path).scheduler) is FusedDDPMScheduler
    named = json.loads((tmp_path / "model_index.json").read_text())["scheduler"]
    assert named == ["robustmdiff.nn.diffusers_scheduler", "FusedDDPMScheduler"]
    plain = DDPMPipeline.from_pretrained(
        tmp_path, scheduler=DDPMScheduler.from_pretrained(tmp_path / "scheduler")
    )
    assert type(plain.scheduler) is DDPMScheduler


def test_changed_alphas_are_seen():
    a, b = DDPMScheduler(), FusedDDPMScheduler()
    x, output = tensors(0, 1)
    for scheduler in (a, b):
        scheduler.step(output, 500, x)
        scheduler.alphas_cumprod = scheduler.alphas_cumprod**2
    found, expected = (s.step(output, 500, x, generator=seeded(), return_dict=False) for s in (b, a))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


X, OUTPUT = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
TEN = FusedDDPMScheduler(num_train_timesteps=100)
TEN.set_timesteps(10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: TEN.step(OUTPUT, 5, X),
            "timestep is 5, expected one of the 10 of scheduler.timesteps, 90 to 0",
        ),
        (lambda: TEN.step(OUTPUT, torch.tensor([90, 91]), X), "timestep is 91, expected one of the 10"),
        (
            lambda: TEN.step(OUTPUT, torch.tensor([0, 0, 0]), X),
            r"timestep is torch.int64 \[3\].* integers \[2\]",
        ),
        (
            lambda: TEN.step(OUTPUT, torch.tensor(0.5), X),
            r"timestep is torch.float32 \[\], expected an integer",
        ),
        (
            lambda: TEN.step(OUTPUT, 90, X, generator=seeded(), key=philox_key(1)),
            "key and generator are given",
        ),
        (
            lambda: TEN.step(OUTPUT, 90, X, noise=X, key=philox_key(1)),
            "noise and key are given, expected at most",
        ),
        (lambda: TEN.add_noise(X, X, torch.tensor([0, 100])), r"step\[1\] is 100, expected 0 to 99"),
        (lambda: TEN.add_noise(X, None, torch.tensor(0)), "exactly one of key and noise, neither is"),
        (
            lambda: FusedDDPMScheduler(variance_type="learned_range").step(OUTPUT, 5, X),
            "model_output has 3 channels, expected 6: the prediction and the variance",
        ),
        (
            lambda: FusedDDPMScheduler(variance_type="fixed_large_log").step(OUTPUT, 5, X),
            "'fixed_large_log', the root of a negative number",
        ),
        (lambda: FusedDDPMScheduler(prediction_type="flow").step(OUTPUT, 5, X), "prediction is 'flow'"),
        (lambda: FusedDDIMScheduler().step(OUTPUT, 5, X), "expected a call of set_timesteps first"),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_diffusers_the_error_says_what_to_install(monkeypatch):
    import robustmdiff.nn as layers

    monkeypatch.delitem(sys.modules, "robustmdiff.nn.diffusers_scheduler")
    monkeypatch.delattr(layers, "diffusers_scheduler")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModuleNotFoundError, match=r"FusedDDPMScheduler needs diffusers: pip install"):
        _ = layers.FusedDDPMScheduler
