"""What time means to a flow, against the definitions in float64."""

import math

import pytest
import torch

from robustmdiff.diffusion.schedule import along
from robustmdiff.generation.flow_objective import FlowConfig, FlowObjective, Stage
from robustmdiff.generation.process import PROCESSES
from tests.generation.flows import SHAPES, small_data, small_model

ALL = Stage("all", tuple(SHAPES), "all")


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_what_is_said_of_a_noisy_latent_gives_it_back_clean(process):
    g = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 5, generator=g, dtype=torch.float64)
    level = process.level(torch.tensor([0.02, 0.3, 0.5, 0.8, 0.98], dtype=torch.float64))
    x = level.a * x_0 + level.s * eps
    torch.testing.assert_close(process.x_0(x, process.wanted(x_0, eps, level), level), x_0, atol=1e-5, rtol=0)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_time_goes_from_clean_to_noise_and_is_what_was_asked(process):
    t = torch.tensor([0.0, 0.25, 1.0])
    level = process.level(t)
    assert level.a[0] > 0.999
    assert level.s[0] < 0.01
    assert level.a[2] < 0.01
    assert level.s[2] > 0.999
    torch.testing.assert_close(process.time(level), t, atol=6e-4, rtol=0)  # half a timestep
    told = torch.stack([process.time(each) for each in along(process.path(5).levels)])
    assert (told.diff() < 0).all()
    assert told.max() <= 1
    assert told.min() >= 0


def test_the_diffusion_is_the_cosine_schedule_and_v_of_the_papers():
    process, t = PROCESSES["cosine"], 499 / 999
    level = process.level(torch.tensor(t))
    alpha_bar = (math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    assert float(level.a) == pytest.approx(math.sqrt(alpha_bar), rel=1e-4)
    x_0, eps = torch.tensor(2.0), torch.tensor(-1.0)
    v = math.sqrt(alpha_bar) * -1 - math.sqrt(1 - alpha_bar) * 2
    assert float(process.wanted(x_0, eps, level)) == pytest.approx(v, rel=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_flows_that_say_nothing_have_the_loss_of_what_they_should_say(name):
    """Networks whose answer is 0: the loss of a flow is then the mean square of what is wanted, 2 of unit
    latents on a straight path and 1 of v."""
    model, data = small_model(process=name), small_data(512)
    for flow in model.flows.values():
        flow.network.forward = lambda x, *_: torch.zeros_like(x)
    objective = FlowObjective(model, ALL, FlowConfig())
    objective.before_step(3)
    here = torch.stack([data.presence[n] for n in SHAPES], 1)
    columns = [data.latents[n] for n in SHAPES]
    _, terms = objective(torch.arange(512), data.h, data.m, here, *columns)
    expected = {"straight": 2.0, "cosine": 1.0}[name]
    for flow in SHAPES:
        assert float(terms[flow]) == pytest.approx(expected, rel=0.15), flow
