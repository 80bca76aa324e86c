"""One guided DDPM step with its noise: diffusers, torch, compiled torch and ours, in one run.

Every candidate reads three tensors, draws noise and writes one. The limit is what the machine takes
to move those bytes and do nothing else: torch.addcmul (three in, one out), or two copies.
"""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler

from robustmdiff import explain, use_backend
from robustmdiff.ops import ddpm_step, ddpm_table, philox_key
from robustmdiff.ops.ddpm import definition

GUIDANCE, STEP = 3.0, 20


@pytest.mark.parametrize("shape", [(8, 3, 256, 256), (64, 512)], ids=lambda shape: "x".join(map(str, shape)))
def test_ddpm_step(compare, shape):
    scheduler = DDPMScheduler(clip_sample=True)
    scheduler.set_timesteps(50)
    t = int(scheduler.timesteps[STEP])
    table, step, key = ddpm_table(scheduler), torch.full((shape[0],), STEP), philox_key(1)
    x, output, uncond, out = (torch.randn(shape) for _ in range(4))

    def diffusers():
        return scheduler.step(uncond + GUIDANCE * (output - uncond), t, x, return_dict=False)[0]

    def eager(output, uncond, x):
        return definition.ddpm_step(
            output, x, step, table, uncond=uncond, guidance=GUIDANCE, clip=1.0, noise=torch.randn_like(x)
        )

    options = {"uncond": uncond, "guidance": GUIDANCE, "clip": 1.0, "key": key}
    assert explain("ddpm_step", output, x, step, table, **options).chosen == "native"

    def ours_on_torch():
        with use_backend(ddpm_step="torch"):
            return ddpm_step(output, x, step, table, **options)

    compiled = torch.compile(eager, fullgraph=True)
    candidates = {
        "diffusers DDPMScheduler.step": diffusers,
        "torch eager": lambda: eager(output, uncond, x),
        "torch.compile": lambda: compiled(output, uncond, x),
        "ours, native": lambda: ddpm_step(output, x, step, table, **options),
        "ours, native, out=": lambda: ddpm_step(output, x, step, table, **options, out=out),
        "ours, torch backend": ours_on_torch,
    }
    with torch.no_grad():
        check(candidates, x, output, uncond, step, table)
        a, b, c = (torch.randn(shape) for _ in range(3))
        d = torch.randn(shape)
        limits = {
            "addcmul": lambda: torch.addcmul(a, b, c, out=d),
            "copies": lambda: (d.copy_(a), c.copy_(b)),
        }
        workload = "x".join(map(str, shape)) + " float32, guidance, clip, noise drawn"
        compare("ddpm_step", workload, candidates, limits, bytes_moved=16 * x.numel())


def check(candidates, x, output, uncond, step, table):
    """Without its mean, each result must be standard normal times sigma: else it has no time."""
    mean = definition.ddpm_step(
        output.double(), x.double(), step, table,
        uncond=uncond.double(), guidance=GUIDANCE, clip=1.0, noise=torch.zeros_like(x).double(),
    )  # fmt: skip
    sigma, n = table[STEP, 4].double(), x.numel()
    for name, call in candidates.items():
        z = (call() - mean) / sigma
        assert abs(z.mean()) < 5 / math.sqrt(n), name
        assert abs(z.var() - 1) < 5 * math.sqrt(2 / n), name
        assert z.abs().max() < 7, name
