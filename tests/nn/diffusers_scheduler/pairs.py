"""Our schedulers beside diffusers' own: what the tests of this folder share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import strategies as st
from torch import Tensor

from robustmdiff.nn import FusedDDIMScheduler, FusedDDPMScheduler

PREDICTIONS = ["epsilon", "sample", "v_prediction"]
PAIRS = [
    pytest.param(DDPMScheduler, FusedDDPMScheduler, id="ddpm"),
    pytest.param(DDIMScheduler, FusedDDIMScheduler, id="ddim"),
]
OURS = [pytest.param(FusedDDPMScheduler, id="ddpm"), pytest.param(FusedDDIMScheduler, id="ddim")]
EPS = torch.finfo(torch.float32).eps

configurations = st.fixed_dictionaries(
    {
        "num_train_timesteps": st.sampled_from([7, 50, 100]),
        "beta_schedule": st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
        "beta_end": st.sampled_from([0.02, 0.2, 2.0]),  # 2 makes alpha bar negative, and NaN
        "prediction_type": st.sampled_from(PREDICTIONS),
        "clip_sample": st.booleans(),
        "clip_sample_range": st.sampled_from([0.5, 1, 2.0, float("inf"), 0.0, -1.0]),
        "thresholding": st.booleans(),
        "sample_max_value": st.sampled_from([0.5, 1.0, 1.5]),
        "timestep_spacing": st.sampled_from(["leading", "trailing", "linspace"]),
        "steps_offset": st.sampled_from([0, 1]),
        "rescale_betas_zero_snr": st.booleans(),
    }
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors(*seeds: int) -> list[Tensor]:
    return [torch.randn(2, 3, 5, 4, generator=seeded(seed)) for seed in seeds]


def wide(scheduler: Any) -> Any:
    """A scheduler of diffusers in float64, from the same float32 alphas."""
    made = copy.deepcopy(scheduler)
    made.alphas_cumprod = made.alphas_cumprod.double()
    if hasattr(made, "one"):
        made.one = made.one.double()
    else:
        made.final_alpha_cumprod = made.final_alpha_cumprod.double()
    return made


@contextmanager
def noise_drawn_in(dtype: torch.dtype) -> Iterator[None]:
    """Within it diffusers draws in this dtype, and widens what it drew."""

    def draw(shape, generator, dtype, device, drawn_in=dtype):
        return torch.randn(shape, generator=generator, dtype=drawn_in).to(dtype)

    with pytest.MonkeyPatch.context() as patch:
        for kind in ("ddpm", "ddim"):
            patch.setattr(f"diffusers.schedulers.scheduling_{kind}.randn_tensor", draw)
        yield


def exact_step(scheduler: Any, output: Tensor, t: Any, x: Tensor, seed: int = 0, **how: Any) -> Any:
    """diffusers' step in float64, with the noise that a generator of this seed gives for the output."""
    with noise_drawn_in(output.dtype):
        return wide(scheduler).step(output.double(), t, x.double(), generator=seeded(seed), **how)


def unclipped(scheduler: Any) -> Any:
    """The scheduler without clipping: of it all numbers show how far plain float32 rounds, where clipping
    leaves few or none."""
    free = copy.deepcopy(scheduler)
    if not free.config.thresholding:
        free.register_to_config(clip_sample=False)
    return free


def as_exact(found: Tensor, theirs: Tensor, exact: Tensor, what: str, rounding: float = 0.0) -> None:
    """At most twice diffusers' own error against float64 arithmetic with the same coefficients, measured here
    or, if that is larger, where nothing is clipped (`rounding`)."""
    assert found.shape == theirs.shape, what
    assert found.dtype == theirs.dtype, what
    if not found.numel():
        return
    x, y, truth = found.double(), theirs.double(), exact.double()
    if not (truth.isfinite().all() and y.isfinite().all()):
        # A root of what fell below 0 by rounding, or a division by alpha bar = 0: no number in either.
        assert torch.equal(x.isfinite(), y.isfinite()), what
        torch.testing.assert_close(x[x.isfinite()], y[x.isfinite()], rtol=1e-5, atol=1e-5)
        return
    error = max(float((y - truth).abs().max()), rounding)
    budget = 2 * (error + EPS * float(truth.abs().max()))
    assert (x - truth).abs().max() <= budget, f"{what}: {(x - truth).abs().max():.1e} > {budget:.1e}"


def steps_as_exact(found: Any, theirs: Any, exact: Any, free: tuple[Any, Any] | None = None) -> None:
    """free: what diffusers gives without clipping, in float32 and exactly."""
    for field, ours in zip(("prev_sample", "pred_original_sample"), found.to_tuple(), strict=True):
        error = None if free is None else (free[0][field].double() - free[1][field].double()).abs().max()
        rounding = 0.0 if error is None or not error.isfinite() else float(error)
        as_exact(ours, theirs[field], exact[field], field, rounding)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the type of what it raises."""
    try:
        return call()
    except Exception as error:
        return type(error)


def agree(found: Any, theirs: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Two outcomes: the same error, or tensors of the same shape, dtype and values."""
    if isinstance(theirs, type) or isinstance(found, type):
        assert found is theirs
    else:
        torch.testing.assert_close(found, theirs, rtol=rtol, atol=atol, equal_nan=True)
