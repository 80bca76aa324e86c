"""ddpm_step and its peers: guidance, clipping to +-1, noise drawn by every candidate or given to all.

diffusers' DDIM with eta = 1 and the clipped prediction kept is the same step, written differently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from benchmarks.candidates import FORWARD, Candidate, Workload, WrongResult
from benchmarks.limits import BYTES, NORMALS
from benchmarks.peers.ours import backends
from robustmdiff.nn.diffusers_scheduler import FusedDDPMScheduler
from robustmdiff.ops import ddpm_step, ddpm_table, philox_key
from robustmdiff.ops.ddpm import definition

GUIDANCE, STEP, STEPS = 3.0, 20, 50


@dataclass(frozen=True)
class Step(Workload):
    step: Tensor  # int64 [B]
    table: Tensor  # float32 [STEPS, 8]
    key: Tensor


def schedule() -> SimpleNamespace:
    """What ddpm_table reads of `DDPMScheduler()` after `set_timesteps(STEPS)`; diffusers may be missing."""
    return SimpleNamespace(
        config=SimpleNamespace(variance_type="fixed_small"),
        alphas_cumprod=(1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0),
        timesteps=torch.arange(0, 1000, 1000 // STEPS).flip(0),
    )


def workload(shape: tuple[int, ...], device: str, dtype: torch.dtype, drawn: bool = True) -> Step:
    """drawn: every candidate draws its noise; else it is one of the tensors."""
    generator = torch.Generator().manual_seed(0)
    names = ("x", "output", "uncond") if drawn else ("x", "output", "uncond", "noise")
    tensors = {name: torch.randn(shape, generator=generator) for name in names}
    numel = math.prod(shape)
    need = {BYTES: (len(names) + 1.0) * numel * dtype.itemsize} | ({NORMALS: float(numel)} if drawn else {})
    step = torch.full((shape[0],), STEP, device=device)
    table = ddpm_table(schedule()).to(device)

    def exact(x: Tensor, output: Tensor, uncond: Tensor, noise: Tensor | None = None) -> Tensor:
        """The mean over noise that is drawn, which is what the result is without any."""
        noise = torch.zeros_like(x) if noise is None else noise
        return definition.ddpm_step(
            output, x, step, table, uncond=uncond, guidance=GUIDANCE, clip=1.0, noise=noise
        )

    return Step(
        "ddpm_step",
        "x".join(map(str, shape)) + ("" if drawn else ", noise given"),
        {name: x.to(device, dtype) for name, x in tensors.items()},
        exact,
        {FORWARD: need},
        step,
        table,
        philox_key(1).to(device),
    )


def check(given: Step) -> Callable[[Candidate, bool], None]:
    """Without its mean, a result must be standard normal times sigma."""
    mean = given.exact(**{name: x.double() for name, x in given.tensors.items()})
    sigma = given.table[STEP, 4].double()

    def run(candidate: Candidate, _: bool) -> None:
        with torch.no_grad():
            z = (candidate(**given.tensors).double() - mean) / sigma
        n = z.numel()
        rounding = float(torch.finfo(given.dtype).eps * mean.abs().max() / sigma)
        right = (
            abs(float(z.mean())) < 5 / math.sqrt(n) + rounding
            and abs(float(z.var()) - 1) < 5 * math.sqrt(2 / n) + rounding
            and float(z.abs().max()) < 7
        )
        if not right:
            raise WrongResult(
                f"{candidate.name}: the noise of {given.name} has mean {float(z.mean()):.2g}, variance "
                f"{float(z.var()):.3g} and maximum {float(z.abs().max()):.3g}, expected a standard normal"
            )

    return run


def ours(given: Step) -> Callable[..., Tensor]:
    def run(x: Tensor, output: Tensor, uncond: Tensor, noise: Tensor | None = None) -> Tensor:
        key = given.key if noise is None else None
        return ddpm_step(
            output,
            x,
            given.step,
            given.table,
            uncond=uncond,
            guidance=GUIDANCE,
            clip=1.0,
            key=key,
            noise=noise,
        )

    return run


def ours_as_called(given: Step) -> Candidate:
    """Nobody names a backend: naming one costs microseconds, which a small step is made of."""
    run = ours(given)
    return Candidate("ours", lambda _, **tensors: run(**tensors), ours=True)


def ours_in_place(given: Step) -> Candidate:
    outs = itertools.cycle([torch.empty_like(given.tensors["x"]) for _ in range(4)])

    def run(_: None, x: Tensor, output: Tensor, uncond: Tensor) -> Tensor:
        return ddpm_step(
            output, x, given.step, given.table,
            uncond=uncond, guidance=GUIDANCE, clip=1.0, key=given.key, out=next(outs),
        )  # fmt: skip

    return Candidate("ours, out=", run, ours=True)


def _formula(given: Step) -> Callable[..., Tensor]:
    def run(_: None, x: Tensor, output: Tensor, uncond: Tensor, noise: Tensor | None = None) -> Tensor:
        noise = torch.randn_like(x) if noise is None else noise
        return definition.ddpm_step(
            output, x, given.step, given.table, uncond=uncond, guidance=GUIDANCE, clip=1.0, noise=noise
        )

    return run


def eager(given: Step) -> Candidate:
    return Candidate("torch eager", _formula(given))


def compiled(given: Step) -> Candidate:
    return Candidate("torch.compile", torch.compile(_formula(given), fullgraph=True, dynamic=False))


def diffusers_ddpm(given: Step) -> Candidate:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(clip_sample=True)
    scheduler.set_timesteps(STEPS)
    t = scheduler.timesteps[STEP]

    def run(_: None, x: Tensor, output: Tensor, uncond: Tensor) -> Tensor:
        return scheduler.step(uncond + GUIDANCE * (output - uncond), t, x, return_dict=False)[0]

    return Candidate("diffusers DDPMScheduler", run)


def diffusers_ddim(given: Step) -> Candidate:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=True, set_alpha_to_one=True)
    scheduler.set_timesteps(STEPS)
    t = scheduler.timesteps[STEP]

    def run(_: None, x: Tensor, output: Tensor, uncond: Tensor) -> Tensor:
        guided = uncond + GUIDANCE * (output - uncond)
        return scheduler.step(guided, t, x, eta=1.0, use_clipped_model_output=True, return_dict=False)[0]

    return Candidate("diffusers DDIMScheduler, eta 1", run)


def fused_scheduler(given: Step, drawn: bool) -> Candidate:
    """Our scheduler called as diffusers' own is; drawn: with noise from a key, and without x_0."""
    scheduler = FusedDDPMScheduler(clip_sample=True)
    scheduler.set_timesteps(STEPS)
    scheduler.predict_x0 = not drawn
    t, extra = scheduler.timesteps[STEP], {"key": given.key} if drawn else {}

    def run(_: None, x: Tensor, output: Tensor, uncond: Tensor) -> Tensor:
        guided = uncond + GUIDANCE * (output - uncond)
        return scheduler.step(guided, t, x, return_dict=False, **extra)[0]

    return Candidate(f"ours, FusedDDPMScheduler{' with a key' if drawn else ''}", run, ours=True)


MAKERS: dict[str, Callable[[Step], Candidate]] = {
    "diffusers DDPMScheduler": diffusers_ddpm,
    "diffusers DDIMScheduler, eta 1": diffusers_ddim,
    "torch eager": eager,
    "torch.compile": compiled,
    **backends("ddpm_step", ours, {}),
    "ours": ours_as_called,
    "ours, out=": ours_in_place,
    "ours, FusedDDPMScheduler": lambda given: fused_scheduler(given, drawn=False),
    "ours, FusedDDPMScheduler with a key": lambda given: fused_scheduler(given, drawn=True),
}

# Those that take the noise as it is: a scheduler of diffusers draws its own.
WITH_NOISE = {
    name: MAKERS[name] for name in ("torch eager", "torch.compile", "ours, native", "ours, torch", "ours")
}
