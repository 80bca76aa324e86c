"""Whatever is changed between two steps, and however, the next one is diffusers' step after that change."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from robustmdiff.nn import FusedDDIMScheduler, FusedDDPMScheduler
from robustmdiff.nn.diffusers_scheduler.tables import Tables, count_writes
from robustmdiff.ops import philox_key
from tests.nn.diffusers_scheduler.pairs import OURS, PAIRS, agree, seeded, tensors

TIMES = torch.tensor([95, 60, 11, 3])


def in_inference_mode(scheduler):
    with torch.inference_mode():
        scheduler.alphas_cumprod.mul_(0.5)


def made_in_inference_mode(scheduler):
    with torch.inference_mode():
        scheduler.alphas_cumprod = scheduler.alphas_cumprod * 1
        scheduler.step(*tensors(0), 60, *tensors(1))
        scheduler.alphas_cumprod.mul_(0.5)


CHANGES = {
    "alphas-in-place": lambda s: s.alphas_cumprod.mul_(0.5),
    "alphas-replaced": lambda s: setattr(s, "alphas_cumprod", s.alphas_cumprod**2),
    "alphas-in-double": lambda s: setattr(s, "alphas_cumprod", s.alphas_cumprod.double() * 0.5),
    "alphas-through-numpy": lambda s: s.alphas_cumprod.numpy().__imul__(0.5),
    "alphas-through-data": lambda s: s.alphas_cumprod.data.mul_(0.5),
    "alphas-in-inference-mode": in_inference_mode,
    "alphas-made-in-inference-mode": made_in_inference_mode,
    "one-alpha": lambda s: s.alphas_cumprod[60].fill_(0.2),
    "betas": lambda s: s.betas.mul_(2),
    "prediction-type": lambda s: s.register_to_config(prediction_type="v_prediction"),
    "clipping": lambda s: s.register_to_config(clip_sample=False),
    "clip-range": lambda s: s.register_to_config(clip_sample_range=0.3),
    "thresholding": lambda s: s.register_to_config(thresholding=True, sample_max_value=1.5),
    "training-timesteps": lambda s: s.register_to_config(num_train_timesteps=200),
    "more-steps": lambda s: s.set_timesteps(50),
    "the-same-steps-again": lambda s: s.set_timesteps(20),
    "number-of-steps": lambda s: setattr(s, "num_inference_steps", 10),
    "timesteps-replaced": lambda s: setattr(s, "timesteps", TIMES.clone()),
    "timesteps-in-place": lambda s: s.timesteps.add_(5).clamp_(max=95),
}
OF_ONE = {
    DDPMScheduler: {
        "own-timesteps": lambda s: s.set_timesteps(timesteps=TIMES.tolist()),
        "variance": lambda s: s.register_to_config(variance_type="fixed_large"),
        "no-steps": lambda s: setattr(s, "num_inference_steps", None),
    },
    DDIMScheduler: {
        "final-alpha": lambda s: setattr(s, "final_alpha_cumprod", torch.tensor(0.9)),
        "final-alpha-in-place": lambda s: s.final_alpha_cumprod.mul_(0.9),
        "first-alpha": lambda s: s.alphas_cumprod[0].mul_(0.9),
    },
}


def results(scheduler, times):
    """Steps at these of the timesteps, and noised samples."""
    x, output = tensors(0, 1)
    how = {"eta": 0.5} if isinstance(scheduler, DDIMScheduler) else {}
    steps = [scheduler.step(output, t, x, generator=seeded(), return_dict=False, **how) for t in times]
    return *steps, scheduler.add_noise(x, output, torch.tensor([60, 0])).float()


@pytest.mark.parametrize(
    ("theirs", "ours", "change"),
    [
        pytest.param(*pair.values, change, id=f"{pair.id}-{name}")
        for pair in PAIRS
        for name, change in (CHANGES | OF_ONE[pair.values[0]]).items()
    ],
)
def test_a_change_is_seen(theirs, ours, change):
    config = {"num_train_timesteps": 100} | ({"set_alpha_to_one": False} if theirs is DDIMScheduler else {})
    found, before = [], []
    for scheduler in (ours(**config), theirs(**config)):
        scheduler.set_timesteps(20)
        before.append(results(scheduler, [60, 0]))
        change(scheduler)
        times = [t for t in scheduler.timesteps.tolist() if t in (95, 60, 11, 0)]
        assert times
        found.append(results(scheduler, times))
    agree(*before)
    agree(*found)


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_is_a_scheduler_of_its_own(ours, duplicate):
    scheduler = ours(num_train_timesteps=100)
    scheduler.set_timesteps(20)
    first = results(scheduler, [60, 0])
    made = duplicate(scheduler)
    assert type(made) is ours
    agree(results(made, [60, 0]), first)
    made.alphas_cumprod = made.alphas_cumprod * 0.5
    changed = results(made, [60, 0])
    assert not torch.equal(changed[0][0], first[0][0])
    agree(results(scheduler, [60, 0]), first)
    agree(results(made, [60, 0]), changed)


@pytest.mark.parametrize("ours", OURS)
def test_a_first_step_in_inference_mode_leaves_the_next_one_trainable(ours):
    scheduler = ours(num_train_timesteps=100)
    scheduler.set_timesteps(20)
    x, output = tensors(0, 1)
    with torch.inference_mode():
        scheduler.step(output, 60, x)
    x.requires_grad_()
    scheduler.step(output, 60, x).prev_sample.sum().backward()
    assert x.grad.isfinite().all()


def test_a_schedule_that_learns_gets_its_gradient():
    """With diffusers' arguments as in diffusers, and with a key too."""
    found = []
    for scheduler in (DDPMScheduler(num_train_timesteps=20), FusedDDPMScheduler(num_train_timesteps=20)):
        scheduler.alphas_cumprod.requires_grad_()
        x, output = tensors(0, 1)
        step = scheduler.step(output, 9, x, generator=seeded()).prev_sample
        (step.sum() + scheduler.add_noise(x, output, torch.tensor([4, 5])).sum()).backward()
        found.append(scheduler.alphas_cumprod.grad)
    agree(*found)
    ours = FusedDDPMScheduler(num_train_timesteps=20)
    x, output = tensors(0, 1)
    noise = torch.randn(x.shape, generator=seeded())
    for _ in range(2):  # a second time too: nothing of the graph of the first is kept
        ours.alphas_cumprod.requires_grad_().grad = None
        ours.step(output, 9, x, noise=noise).prev_sample.sum().backward()
        theirs = DDPMScheduler(num_train_timesteps=20)
        theirs.alphas_cumprod.requires_grad_()
        theirs.step(output, 9, x, generator=seeded()).prev_sample.sum().backward()
        agree(ours.alphas_cumprod.grad, theirs.alphas_cumprod.grad, 1e-4, 1e-4)


@pytest.mark.parametrize("ours", OURS)
def test_a_compiled_step_sees_changes(ours):
    scheduler = ours(num_train_timesteps=50)
    scheduler.set_timesteps(10)
    x, output = tensors(0, 1)
    t, key = torch.tensor([30, 5]), philox_key(1)
    how = {"eta": 1.0} if ours is FusedDDIMScheduler else {}

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(output, t, x, key):
        noised = scheduler.add_noise(x, None, t, key=key)
        return scheduler.step(output, t, noised, key=key, return_dict=False, **how)

    for _ in range(2):
        noised = scheduler.add_noise(x, None, t, key=key)
        eager = scheduler.step(output, t, noised, key=key, return_dict=False, **how)
        torch.testing.assert_close(step(output, t, x, key), eager)
        scheduler.alphas_cumprod.mul_(0.5)


class Owner:
    def __init__(self, x):
        self.x = x


def test_on_other_devices_writes_are_counted_and_nothing_is_read():
    """On the meta device a look at a value raises, where on a GPU it would wait."""
    made = []

    def get(tables, x):
        return tables.get("steps", (), (x,), lambda: made.append(x) or len(made))

    tables, x = Tables(), torch.ones(5, device="meta")
    assert [get(tables, x), get(tables, x)] == [1, 1]
    x.mul_(2)
    assert get(tables, x) == 2
    assert get(tables, x.clone()) == 3
    assert get(tables, torch.ones(5)) == 4  # moved to the CPU
    assert get(tables, torch.ones(5)) == 4
    with torch.inference_mode():
        owner = Owner(torch.ones(5, device="meta"))
        assert owner.x.is_inference()
        count_writes(owner, "x")
        assert get(tables, owner.x) == 5
        assert get(tables, owner.x) == 5
        owner.x.mul_(2)
        count_writes(owner, "x")
        assert get(tables, owner.x) == 6
