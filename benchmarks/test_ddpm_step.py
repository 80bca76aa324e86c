"""One guided DDPM step with its noise: diffusers, torch, compiled torch and ours, in one run.

Every candidate reads three tensors, draws noise and writes one. The limit is what the machine takes
to move those bytes and do nothing else: torch.addcmul (three in, one out), or two copies. Between two
steps of a real sampler a denoiser runs and empties the cache, so every call takes the next of twelve
sets of tensors; of the images that is 300 MB, more than the caches hold. Vectors stay in cache.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from diffusers import DDPMScheduler

from robustmdiff import explain, use_backend
from robustmdiff.ops import ddpm_step, ddpm_table, philox_key
from robustmdiff.ops.ddpm import definition

GUIDANCE, STEP, SETS = 3.0, 20, 12


@pytest.mark.parametrize("shape", [(8, 3, 256, 256), (64, 512)], ids=lambda shape: "x".join(map(str, shape)))
def test_ddpm_step(compare, shape):
    scheduler = DDPMScheduler(clip_sample=True)
    scheduler.set_timesteps(50)
    t = int(scheduler.timesteps[STEP])
    table, step, key = ddpm_table(scheduler), torch.full((shape[0],), STEP), philox_key(1)

    def diffusers(x, output, uncond, out):
        return scheduler.step(uncond + GUIDANCE * (output - uncond), t, x, return_dict=False)[0]

    def eager(x, output, uncond, out):
        noise = torch.randn_like(x)
        return definition.ddpm_step(
            output, x, step, table, uncond=uncond, guidance=GUIDANCE, clip=1.0, noise=noise
        )

    def ours(x, output, uncond, out):
        return ddpm_step(output, x, step, table, uncond=uncond, guidance=GUIDANCE, clip=1.0, key=key)

    def ours_in_place(x, output, uncond, out):
        return ddpm_step(output, x, step, table, uncond=uncond, guidance=GUIDANCE, clip=1.0, key=key, out=out)

    def ours_on_torch(*tensors):
        with use_backend(ddpm_step="torch"):
            return ours(*tensors)

    candidates = {
        "diffusers DDPMScheduler.step": diffusers,
        "torch eager": eager,
        "torch.compile": torch.compile(eager, fullgraph=True),
        "ours, native": ours,
        "ours, native, out=": ours_in_place,
        "ours, torch backend": ours_on_torch,
    }
    limits = {
        "addcmul": lambda x, output, uncond, out: torch.addcmul(x, output, uncond, out=out),
        "copies": lambda x, output, uncond, out: (out.copy_(x), uncond.copy_(output)),
    }
    sets = [[torch.randn(shape) for _ in range(4)] for _ in range(SETS)]
    with torch.no_grad():
        assert explain("ddpm_step", *sets[0][:2], step, table, key=key).chosen == "native"
        for name, call in candidates.items():
            check(name, call, sets[0], step, table)
        turn = itertools.cycle(sets)

        def on_the_next_set(calls):
            return {name: lambda call=call: call(*next(turn)) for name, call in calls.items()}

        compare(
            "ddpm_step",
            "x".join(map(str, shape)) + " float32, guidance, clip, noise drawn",
            on_the_next_set(candidates),
            on_the_next_set(limits),
            bytes_moved=16 * sets[0][0].numel(),
        )


def check(name, call, tensors, step, table):
    """Without its mean, a result must be standard normal times sigma: else it has no time."""
    x, output, uncond, _ = (tensor.double() for tensor in tensors)
    mean = definition.ddpm_step(
        output, x, step, table, uncond=uncond, guidance=GUIDANCE, clip=1.0, noise=torch.zeros_like(x)
    )
    z, n = (call(*tensors) - mean) / table[STEP, 4].double(), x.numel()
    assert abs(z.mean()) < 5 / math.sqrt(n), name
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / n), name
    assert z.abs().max() < 7, name
