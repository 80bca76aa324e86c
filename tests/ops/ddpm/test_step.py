"""The step against diffusers and against its float64 definition, gradients included."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import DDPMScheduler

from robustmdiff import explain, use_backend
from robustmdiff.ops import DynamicThreshold, ddpm_step, ddpm_table, philox_key
from robustmdiff.ops.ddpm import definition
from robustmdiff.ops.philox import philox_normal

SHAPES = [(3, 5), (2, 3, 7, 11), (5, 1), (1, 130), (0, 4), (3, 0)]
EPS = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}


def draw(shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large", "learned_range"])
@pytest.mark.parametrize("clip", [None, 0.8])
def test_equals_diffusers_given_the_same_noise(engine, prediction, variance_type, clip):
    scheduler = DDPMScheduler(
        prediction_type=prediction,
        variance_type=variance_type,
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
    )
    scheduler.set_timesteps(7)
    table, B, C = ddpm_table(scheduler), 3, 2
    x, output, v = draw((B, C, 5, 9), 1), draw((B, C, 5, 9), 2), draw((B, C, 5, 9), 3).clamp(-1, 1)
    learned = variance_type == "learned_range"
    for i, t in enumerate(scheduler.timesteps):
        noise = torch.randn((B, C, 5, 9), generator=torch.Generator().manual_seed(i))
        whole = torch.cat((output, v), 1) if learned else output
        theirs = scheduler.step(whole, int(t), x, generator=torch.Generator().manual_seed(i)).prev_sample
        rest = {"clip": clip, "prediction": prediction, "variance_output": v if learned else None}
        step = torch.full((B,), i)
        with use_backend(ddpm_step=engine):
            ours = ddpm_step(
                output, x, step, table, variance="learned_range" if learned else "fixed", noise=noise, **rest
            )
        rest["variance_output"] = v.double() if learned else None
        exact = definition.ddpm_step(output.double(), x.double(), step, table, noise=noise.double(), **rest)
        budget = 2 * (theirs - exact).abs().max() + EPS[torch.float32] * exact.abs().max()
        assert (ours - exact).abs().max() <= budget
        assert (ours - theirs).abs().max() <= 2 * budget


@pytest.mark.parametrize("clip", [DynamicThreshold(0.9, 1.5), DynamicThreshold(), DynamicThreshold(0.0, 0.5)])
def test_dynamic_thresholding_equals_diffusers_and_stays_on_torch(clip):
    scheduler = DDPMScheduler(
        thresholding=True, dynamic_thresholding_ratio=clip.ratio, sample_max_value=clip.limit
    )
    scheduler.set_timesteps(5)
    x, output = 3 * draw((2, 3, 4, 5), 1), draw((2, 3, 4, 5), 2)
    table, step = ddpm_table(scheduler), torch.full((2,), 1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    theirs = scheduler.step(
        output, int(scheduler.timesteps[1]), x, torch.Generator().manual_seed(4)
    ).prev_sample
    ours = ddpm_step(output, x, step, table, clip=clip, noise=noise)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    explanation = explain("ddpm_step", output, x, step, table, clip=clip, noise=noise)
    assert explanation.chosen == "torch"
    assert "dynamic thresholding" in str(explanation)


OPTIONS = {
    "plain": {},
    "guided": {"guidance": 3.5, "uncond": 9},
    "guided by row, clipped, v": {
        "guidance": "rows",
        "uncond": 9,
        "clip": 1.0,
        "prediction": "v_prediction",
    },
    "learned variance": {"variance_output": 8, "variance": "learned_range", "prediction": "sample"},
    "known variance": {"log_variance": 8, "prediction": "sample"},
    "everything": {
        "variance_output": 8,
        "variance": "learned_range",
        "uncond": 9,
        "guidance": -0.5,
        "clip": 0.5,
    },
}


def arguments(option, shape, dtype):
    """Keyword arguments of ddpm_step in this dtype, and those of the definition in float64."""
    given = dict(OPTIONS[option])
    for name in ("uncond", "variance_output", "log_variance"):
        if name in given:
            given[name] = draw(shape, given[name], dtype).clamp(-1, 1)
    if "log_variance" in given:
        given["log_variance"] = 6 * given["log_variance"] - 5
    if given.get("guidance") == "rows":
        given["guidance"] = torch.linspace(0.5, 4, shape[0])
    exact = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in given.items() if k != "variance"}
    return given, exact


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("drawn", [True, False], ids=["key", "noise"])
def test_error_is_at_most_twice_that_of_plain_torch(engine, table, dtype, shape, option, drawn):
    given, exact_given = arguments(option, shape, dtype)
    B = shape[0]
    x, output = draw(shape, 1, dtype), draw(shape, 2, dtype)
    step = torch.tensor([0, 9, 4, 7, 8])[:B]
    if drawn:
        key, row_ids = philox_key(2**40 + 3, 6), torch.tensor([7, 0, 2**32 - 1, 3, 4])[:B]
        noise = philox_normal(key, step, row_ids, x[:1].numel()).reshape(shape)
        source = {"key": key, "row_ids": row_ids}
    else:
        noise = draw(shape, 3, dtype)
        source = {"noise": noise}
    exact = definition.ddpm_step(
        output.double(), x.double(), step, table, noise=noise.double(), **exact_given
    )
    plain_given = {k: v for k, v in given.items() if k != "variance"}
    plain = definition.ddpm_step(output, x, step, table, noise=noise.to(dtype), **plain_given)
    with use_backend(ddpm_step=engine):
        ours = ddpm_step(output, x, step, table, **given, **source)
    assert ours.dtype == dtype
    assert ours.shape == shape
    if 0 in shape:
        return
    normal_error = 1e-6 if drawn else 0.0
    error, allowed = (ours - exact).abs(), 2 * (plain - exact).abs().amax() + normal_error
    assert error.amax() <= allowed + EPS[dtype] * exact.abs().amax()


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("drawn", [True, False], ids=["key", "noise"])
def test_gradients_are_those_of_the_definition(engine, table, option, drawn):
    shape = (3, 2, 5)
    given, exact_given = arguments(option, shape, torch.float32)
    step, key = torch.tensor([0, 9, 5]), philox_key(5)
    x, output, weight = draw(shape, 1), draw(shape, 2), draw(shape, 4)
    noise = philox_normal(key, step, None, 10).reshape(shape) if drawn else draw(shape, 3)
    source = {"key": key} if drawn else {"noise": noise}
    wrt = {"model_output": output, "sample": x} | {
        name: given[name] for name in ("uncond", "variance_output", "log_variance") if name in given
    }

    def gradients(function, dtype, options, **rest):
        leaves = {name: value.detach().to(dtype).requires_grad_() for name, value in wrt.items()}
        options = options | {k: v for k, v in leaves.items() if k in options}
        out = function(leaves["model_output"], leaves["sample"], step, table, **options, **rest)
        return torch.autograd.grad((out * weight).sum(), list(leaves.values()))

    plain_given = {k: v for k, v in given.items() if k != "variance"}
    exact = gradients(definition.ddpm_step, torch.float64, exact_given, noise=noise.double())
    plain = gradients(definition.ddpm_step, torch.float32, plain_given, noise=noise.float())
    with use_backend(ddpm_step=engine):
        ours = gradients(ddpm_step, torch.float32, given, **source)
    for name, a, b, c in zip(wrt, ours, plain, exact, strict=True):
        budget = 3 * (b - c).abs().max() + EPS[torch.float32] * c.abs().max() + (1e-6 if drawn else 0)
        assert (a - c).abs().max() <= budget, name


def test_gradients_of_guidance_noise_and_table_come_from_torch(table):
    x, output, uncond = (draw((2, 3), i) for i in range(3))
    guidance = torch.tensor([1.0, 2.0], requires_grad=True)
    args = {"uncond": uncond, "guidance": guidance, "key": philox_key(0)}
    explanation = explain("ddpm_step", output, x, torch.tensor([1, 2]), table, **args)
    assert explanation.chosen == "torch"
    assert "guidance needs a gradient" in str(explanation)
    ddpm_step(output, x, torch.tensor([1, 2]), table, **args).sum().backward()
    assert guidance.grad is not None
    assert guidance.grad.abs().min() > 0


def test_a_second_derivative_raises_on_native(table):
    output, x = draw((2, 3), 1).requires_grad_(), draw((2, 3), 2)
    with use_backend(ddpm_step="native"):
        out = ddpm_step(output, x, torch.tensor([1, 2]), table, key=philox_key(0))
    (first,) = torch.autograd.grad(out.square().sum(), output, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        first.sum().backward()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_functional_transforms(engine, table):
    x, output, step, key = draw((3, 4), 1), draw((3, 4), 2), torch.tensor([1, 9, 3]), philox_key(0)

    def loss(output):
        return ddpm_step(output, x, step, table, key=key).square().sum()

    with use_backend(ddpm_step=engine):
        leaf = output.clone().requires_grad_()
        loss(leaf).backward()
        torch.testing.assert_close(torch.func.grad(loss)(output), leaf.grad)
        stacked = torch.stack((output, 2 * output))
        each = torch.stack([loss(one) for one in stacked])
        torch.testing.assert_close(torch.func.vmap(loss)(stacked), each)


def test_the_last_step_neither_reads_nor_draws_noise(engine, table):
    x, output = draw((2, 5), 1).requires_grad_(), draw((2, 5), 2)
    step = torch.tensor([9, 3])
    noise = torch.stack((torch.full((5,), float("nan")), draw((5,), 3)))
    with use_backend(ddpm_step=engine):
        out = ddpm_step(output, x, step, table, noise=noise)
        out.sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_explicit_backends_never_fall_back(table):
    x = draw((2, 3), 1, torch.float64)
    with use_backend(ddpm_step="native"), pytest.raises(RuntimeError, match="'native' cannot run: float64"):
        ddpm_step(x, x, torch.tensor([0, 1]), table, key=philox_key(0))


def test_model_output_is_cast_to_the_dtype_of_the_sample(engine, table):
    x, output = draw((2, 3), 1), draw((2, 3), 2, torch.bfloat16)
    step, key = torch.tensor([4, 5]), philox_key(1)
    with use_backend(ddpm_step=engine):
        torch.testing.assert_close(
            ddpm_step(output, x, step, table, key=key),
            ddpm_step(output.float(), x, step, table, key=key),
            rtol=0,
            atol=0,
        )


@pytest.mark.parametrize("name", ["model_output", "sample", "uncond"])
def test_strides_do_not_matter(engine, table, name):
    shape = (3, 4, 6)
    values = {"model_output": draw(shape, 1), "sample": draw(shape, 2), "uncond": draw(shape, 3)}
    rest = {"step": torch.tensor([4, 5, 9]), "table": table, "guidance": 2.0, "key": philox_key(1)}
    strided = values | {name: values[name].transpose(1, 2).contiguous().transpose(1, 2)}
    assert not strided[name].is_contiguous()
    with use_backend(ddpm_step=engine):
        a, b = ddpm_step(**values, **rest), ddpm_step(**strided, **rest)
    assert torch.equal(a, b)
    assert b.is_contiguous()


def test_no_option_is_ignored():
    """No two sets of options give the same answer."""
    table = ddpm_table(DDPMScheduler())
    step, key = torch.tensor([500, 600, 10]), philox_key(0)
    x, output = draw((3, 8), 1), 0.3 * draw((3, 8), 2)
    results = [
        ddpm_step(output, x, step, table, key=key, **arguments(option, (3, 8), torch.float32)[0])
        for option in OPTIONS
    ]
    for a, b in itertools.combinations(results, 2):
        assert not torch.allclose(a, b)
