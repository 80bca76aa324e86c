"""What the schedulers refuse beside timesteps."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from robustmdiff.nn import FusedDDIMScheduler, FusedDDPMScheduler
from robustmdiff.ops import philox_key
from tests.nn.diffusers_scheduler.pairs import OURS, seeded

X, OUTPUT = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
TEN = FusedDDPMScheduler(num_train_timesteps=100)
TEN.set_timesteps(10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: TEN.step(OUTPUT, torch.tensor([0, 0, 0]), X),
            r"timestep is torch.int64 \[3\].* integers \[2\]",
        ),
        (
            lambda: TEN.step(OUTPUT, 90, X, generator=seeded(), key=philox_key(1)),
            "key and generator are given",
        ),
        (
            lambda: TEN.step(OUTPUT, 90, X, noise=X, key=philox_key(1)),
            "noise and key are given, expected at most",
        ),
        (lambda: TEN.add_noise(X, None, torch.tensor(0)), "exactly one of key and noise, neither is"),
        (
            lambda: FusedDDPMScheduler(variance_type="learned_range").step(OUTPUT, 5, X),
            "model_output has 3 channels, expected 6: the prediction and the variance",
        ),
        (
            lambda: FusedDDPMScheduler(variance_type="fixed_large_log").step(OUTPUT, 5, X),
            "'fixed_large_log', the root of a negative number",
        ),
        (lambda: FusedDDIMScheduler().step(OUTPUT, 5, X), "expected a call of set_timesteps first"),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("clip_sample", [True, False])
def test_an_unknown_prediction_type(ours, clip_sample):
    scheduler = ours(prediction_type="flow", clip_sample=clip_sample)
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="prediction_type is 'flow', expected one of 'epsilon', 'sample'"):
        scheduler.step(OUTPUT, 0, X)


def test_a_generator_beside_given_noise():
    """Refused where it would be drawn from, as in diffusers' DDIM."""
    for scheduler in (DDIMScheduler(), FusedDDIMScheduler()):
        scheduler.set_timesteps(10)
        scheduler.step(OUTPUT, 0, X, eta=0.0, generator=seeded(), variance_noise=X)
        with pytest.raises(ValueError, match="variance_noise"):
            scheduler.step(OUTPUT, 0, X, eta=0.5, generator=seeded(), variance_noise=X)
