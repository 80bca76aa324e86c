"""What diffusers' own tests ask of its DDPM and DDIM schedulers, asked of the fused ones.

Each configuration is saved, loaded and stepped with, and every number is compared with diffusers'. Where
its tests know a constant, ours know what diffusers computes, on the machine at hand.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from diffusers.utils import DummyObject, logging

from robustmdiff.nn import FusedDDIMScheduler, FusedDDPMScheduler
from tests.nn.diffusers_scheduler.pairs import (
    OURS,
    PAIRS,
    PREDICTIONS,
    agree,
    as_exact,
    exact_step,
    noise_drawn_in,
    outcome,
    seeded,
    steps_as_exact,
    wide,
)

BETAS = [(0.0001, 0.002), (0.001, 0.02), (0.01, 0.2), (0.1, 2)]
CONFIGURATIONS = [
    *({"num_train_timesteps": T} for T in (1, 5, 100, 500, 1000)),
    *({"beta_start": start, "beta_end": end} for start, end in BETAS),
    *({"beta_schedule": schedule} for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2")),
    *({"prediction_type": prediction} for prediction in PREDICTIONS),
    *({"clip_sample": clip} for clip in (True, False)),
    *({"clip_sample_range": end} for end in (0.1, 3.0)),
    *({"timestep_spacing": spacing} for spacing in ("leading", "trailing", "linspace")),
    *({"steps_offset": offset} for offset in (0, 1)),
    *(
        {"rescale_betas_zero_snr": rescale, "prediction_type": "v_prediction"}  # epsilon divides by 0
        for rescale in (True, False)
    ),
    *(
        {"thresholding": True, "prediction_type": prediction, "sample_max_value": largest}
        for prediction in PREDICTIONS
        for largest in (0.5, 1.0, 2.0)
    ),
]
OF_DDPM = [
    *({"beta_schedule": schedule} for schedule in ("sigmoid", "laplace")),
    *({"variance_type": kind} for kind in ("fixed_small", "fixed_small_log", "fixed_large", "other")),
]
OF_DDIM = [{"set_alpha_to_one": to_one, "beta_start": 0.01} for to_one in (True, False)]


def ramp():
    """[4, 3, 8, 6]: rising numbers from 0 to 1."""
    return (torch.arange(4 * 3 * 8 * 6).reshape(3, 8, 6, 4) / (4 * 3 * 8 * 6)).permute(3, 0, 1, 2)


def model(x, t):
    return x * t / (t + 1)


@pytest.mark.parametrize(
    ("theirs", "ours", "config"),
    [
        pytest.param(*pair.values, config, id="-".join([pair.id, *(f"{k}={v}" for k, v in config.items())]))
        for pair, own in zip(PAIRS, (OF_DDPM, OF_DDIM), strict=True)
        for config in CONFIGURATIONS + own
    ],
)
def test_every_configuration_is_saved_loaded_and_stepped(theirs, ours, config, tmp_path):
    a = theirs(**config)
    ours(**config).save_pretrained(tmp_path)
    b = ours.from_pretrained(tmp_path)
    assert type(b) is ours
    x = ramp()
    steps = [None, 1] if theirs is DDPMScheduler else [1]
    steps += [n for n in (5, 50) if n <= a.config.num_train_timesteps]
    for n in steps:
        for scheduler in (a, b):
            if n is not None:
                scheduler.set_timesteps(n)
        assert torch.equal(a.timesteps, b.timesteps)
        times = a.timesteps[a.timesteps < len(a.alphas_cumprod)]
        for t in times[[0, len(times) // 2, -1]].tolist() if len(times) else []:
            expected, found = (s.step(0.1 * x, t, x, generator=seeded()) for s in (a, b))
            steps_as_exact(found, expected, exact_step(a, 0.1 * x, t, x))


@pytest.mark.parametrize("t", [0, 500, 999])
def test_ddpm_at_times(t):
    a, b = DDPMScheduler(), FusedDDPMScheduler()
    expected, found = (s.step(model(ramp(), t), t, ramp(), generator=seeded()) for s in (a, b))
    steps_as_exact(found, expected, exact_step(a, model(ramp(), t), t, ramp()))


@pytest.mark.parametrize(
    ("t", "steps", "eta"),
    [(1, 10, 0.0), (10, 50, 0.0), (50, 500, 0.0), (1, 50, 0.0), (10, 50, 0.5), (49, 50, 1.0)],
)
def test_ddim_at_times_of_any_number_of_steps(t, steps, eta):
    """DDIM takes times between those that are set, too."""
    a, b = DDIMScheduler(), FusedDDIMScheduler()
    for scheduler in (a, b):
        scheduler.set_timesteps(steps)
    expected, found = (s.step(model(ramp(), t), t, ramp(), eta, generator=seeded()) for s in (a, b))
    steps_as_exact(found, expected, exact_step(a, model(ramp(), t), t, ramp(), eta=eta))


def test_the_variance_of_a_step():
    for t in (0, 487, 999):
        assert torch.equal(FusedDDPMScheduler()._get_variance(t), DDPMScheduler()._get_variance(t))
    for times in ((0, 0), (420, 400), (980, 960), (487, 486), (999, 998)):
        assert torch.equal(FusedDDIMScheduler()._get_variance(*times), DDIMScheduler()._get_variance(*times))


def loop(scheduler, x, times):
    generator = seeded()
    for t in times:
        x = scheduler.step(model(x, t), t, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize(
    ("theirs", "ours", "config"),
    [
        pytest.param(DDPMScheduler, FusedDDPMScheduler, {}, id="ddpm"),
        pytest.param(DDPMScheduler, FusedDDPMScheduler, {"prediction_type": "v_prediction"}, id="ddpm-v"),
        pytest.param(DDIMScheduler, FusedDDIMScheduler, {}, id="ddim"),
        pytest.param(DDIMScheduler, FusedDDIMScheduler, {"prediction_type": "v_prediction"}, id="ddim-v"),
        *(pytest.param(DDIMScheduler, FusedDDIMScheduler, config, id=f"ddim-{config}") for config in OF_DDIM),
    ],
)
@pytest.mark.parametrize("noised", [False, True], ids=["from-a-sample", "from-a-noised-sample"])
def test_a_whole_loop(theirs, ours, config, noised):
    """DDPM through its training timesteps, DDIM through 10; or only their end, after noise was added."""
    a, b = theirs(num_train_timesteps=200, **config), ours(num_train_timesteps=200, **config)
    made, x = [], ramp()
    for scheduler in (b, a, wide(a)):
        if theirs is DDIMScheduler:
            scheduler.set_timesteps(10)
        times, start = scheduler.timesteps, x.double() if scheduler not in (a, b) else x
        if noised:
            times = times[-2:]
            start = scheduler.add_noise(start, x.flip(0).to(start), times[:1])
        with noise_drawn_in(torch.float32):
            made.append(loop(scheduler, start, times))
    as_exact(*made, "after the loop")


def test_own_timesteps():
    own = [100, 87, 50, 1, 0]
    scheduler = FusedDDPMScheduler()
    scheduler.set_timesteps(timesteps=own)
    for t, before in zip(scheduler.timesteps, [*own[1:], -1], strict=True):
        assert scheduler.previous_timestep(t) == before


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"timesteps": [100, 87, 50, 51, 0]}, "must be in descending order"),
        ({"timesteps": [100, 50, 0], "num_inference_steps": 3}, "Can only pass one of"),
        ({"timesteps": [1000]}, "must start before"),
        ({"num_inference_steps": 1001}, "cannot be larger than"),
    ],
)
def test_timesteps_that_diffusers_refuses(how, message):
    with pytest.raises(ValueError, match=message):
        FusedDDPMScheduler().set_timesteps(**how)


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_no_steps_at_all(theirs, ours):
    agree(*(outcome(lambda s=s: s().set_timesteps(0)) for s in (ours, theirs)))


def test_shifted_timesteps():
    scheduler = FusedDDIMScheduler(steps_offset=1)
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == [801, 601, 401, 201, 1]


@pytest.mark.parametrize("ours", OURS)
def test_a_tuple_or_an_output_of_the_same_shape(ours):
    scheduler = ours()
    scheduler.set_timesteps(50)
    x = ramp()
    for t in (0, 20):
        output = scheduler.step(0.1 * x, t, x, generator=seeded())
        as_tuple = scheduler.step(0.1 * x, t, x, generator=seeded(), return_dict=False)
        torch.testing.assert_close(output.to_tuple(), as_tuple)
        assert output.prev_sample.shape == output.pred_original_sample.shape == x.shape


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_what_pipelines_ask_of_a_scheduler(theirs, ours):
    a, b = theirs(), ours()
    assert (b.init_noise_sigma, b.order, len(b)) == (a.init_noise_sigma, a.order, len(a))
    assert b.scale_model_input(ramp(), 0.0).shape == ramp().shape
    assert torch.equal(b.scale_model_input(ramp(), 3), ramp())
    b.set_timesteps(100)
    noised = b.add_noise(ramp(), ramp().flip(0), b.timesteps[5][None])
    torch.testing.assert_close(noised, a.add_noise(ramp(), ramp().flip(0), b.timesteps[5][None]))


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_the_constructor_is_diffusers(theirs, ours):
    parameters = inspect.signature(ours.__init__).parameters
    assert parameters == inspect.signature(theirs.__init__).parameters
    assert ("kwargs" in parameters) == (len(ours._deprecated_kwargs) > 0)
    step = inspect.signature(theirs.step).parameters
    assert list(inspect.signature(ours.step).parameters)[: len(step)] == list(step)


@pytest.mark.parametrize("ours", OURS)
def test_a_saved_configuration_is_the_same(ours, tmp_path):
    scheduler = ours(trained_betas=np.array([0.1, 0.3]))
    scheduler.save_pretrained(tmp_path)
    loaded = ours.from_pretrained(tmp_path)
    assert loaded.betas.tolist() == scheduler.betas.tolist()
    scheduler = ours(beta_end=0.03)
    scheduler.save_pretrained(tmp_path)
    config = {k: v for k, v in scheduler.config.items() if k != "_use_default_values"}
    assert ours.from_pretrained(tmp_path).config == config


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, in other schedulers
@pytest.mark.parametrize("ours", OURS)
def test_compatible_schedulers(ours):
    scheduler = ours(beta_end=0.03)
    assert len(scheduler.compatibles) > 10
    for compatible in scheduler.compatibles:
        if isinstance(compatible, DummyObject):  # it needs a package that is not installed
            continue
        back = ours.from_config(compatible.from_config(scheduler.config).config)
        assert {k: v for k, v in back.config.items() if k in scheduler.config} == dict(scheduler.config)
        only_there = {k for k in back.config if k not in scheduler.config}
        assert not only_there & set(inspect.signature(ours.__init__).parameters)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, in other schedulers
@pytest.mark.parametrize("ours", OURS)
def test_defaults_are_not_carried_to_another_scheduler(ours):
    """What was set goes along; what was a default becomes the default of the other."""
    config = ours().config
    assert config.timestep_spacing == "leading"
    euler = EulerDiscreteScheduler.from_config(config)
    assert euler.config.timestep_spacing == "linspace"
    trailing = EulerDiscreteScheduler.from_config(euler.config, timestep_spacing="trailing")
    assert EulerAncestralDiscreteScheduler.from_config(trailing.config).config.timestep_spacing == "trailing"
    assert ours.from_config(trailing.config).config.timestep_spacing == "trailing"


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_warnings_of_a_configuration(theirs, ours):
    """An unknown entry is warned of in diffusers' words, one that another scheduler has is not."""
    said = []
    handler = logging.get_logger("diffusers.configuration_utils")
    for scheduler in (ours, theirs):
        with pytest.MonkeyPatch.context() as patch:
            lines = []
            patch.setattr(handler, "warning", lines.append)
            other = DDIMScheduler if theirs is DDPMScheduler else DDPMScheduler
            scheduler.from_config(other(beta_end=0.03).config)
            assert lines == []
            scheduler.from_config({**scheduler(beta_end=0.03).config, "unexpected": True})
            said.append(lines)
    assert said[0] == said[1]
    assert "unexpected" in said[0][0]


@pytest.mark.parametrize("ours", OURS)
def test_attributes(ours):
    scheduler = ours()
    scheduler.mine = 5
    scheduler.register_to_config(of_the_config=6)
    assert scheduler.mine == 5
    with pytest.warns(FutureWarning, match="of_the_config"):
        assert scheduler.of_the_config == 6
    with pytest.raises(AttributeError, match="object has no attribute 'does_not_exist'"):
        _ = scheduler.does_not_exist
