"""What the two schedulers share: noising, x_0, and which calls the kernels can take."""

from __future__ import annotations

import math
import operator
from typing import Any, Self

import torch
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch.compiler import is_compiling

from robustmdiff.nn.diffusers_scheduler.tables import (
    INTEGERS,
    Table,
    Tables,
    at_hand,
    count_writes,
    for_each,
    noise_rows,
)
from robustmdiff.ops import DynamicThreshold, ddpm_noise, ddpm_step
from robustmdiff.ops.ddpm.check import readable
from robustmdiff.ops.registration import FLOATS


class Fused(SchedulerMixin):
    """Mixed in before a scheduler of diffusers."""

    config: Any
    timesteps: Tensor
    alphas_cumprod: Tensor
    num_inference_steps: int
    to_json_string: Any
    _tables: Tables

    # x_0 costs a pass of its own. Where nobody looks at it, set this to False: `step` may then give None.
    predict_x0: bool = True

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = super().__new__(cls)
        made._tables = Tables()
        # A pipeline saves each part by its `__module__` and the name of its class. Here both name diffusers'
        # own scheduler (the name: below each class), so what is saved needs nothing of ours to be loaded.
        theirs = cls.__bases__[-1]
        if cls.__name__ == theirs.__name__:
            made.__module__ = theirs.__module__
        return made

    def __repr__(self) -> str:
        return f"{type(self).__qualname__} {self.to_json_string()}"

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own tables."""
        return {name: value for name, value in self.__dict__.items() if name != "_tables"}

    def add_noise(
        self,
        original_samples: Tensor,
        noise: Tensor | None,
        timesteps: Tensor,
        *,
        key: Tensor | None = None,
        row_ids: Tensor | None = None,
    ) -> Tensor:
        """x_t = sqrt(alpha bar_t) x_0 + sqrt(1 - alpha bar_t) noise; timesteps int [B], [1] or [].

        Either noise or a key (int64 [2]: seed, offset) to draw from, at the place (row id, timestep).
        With noise, everything that diffusers' `add_noise` takes is taken, and gives its shape and dtype.
        Raises IndexError for a timestep that is not in the schedule (an assertion on the device on a GPU
        and in a compiled graph).
        """
        x = original_samples
        drawn = key is not None or row_ids is not None
        if not drawn and noise is not None and not self._noise_fits(x, noise, timesteps):
            return super().add_noise(x, noise, timesteps)  # type: ignore[misc]
        count_writes(self, "alphas_cumprod")
        alpha_bars = self.alphas_cumprod
        t = for_each(timesteps, x)
        if not readable(t):
            T = len(alpha_bars)
            first = 0 if drawn else -T  # counted from the end, as in torch
            torch._assert_async(((t >= first) & (t < T)).all(), f"timesteps: expected 0 to {T - 1}")
            t = t % T
        table = self._tables.get(
            "noise", (x.device,), (alpha_bars,), lambda: noise_rows(at_hand(alpha_bars)).to(x.device)
        )
        try:
            return ddpm_noise(x, t, table, noise=noise, key=key, row_ids=row_ids)
        except ValueError:  # for a timestep: diffusers counts a negative one from the end
            if drawn or noise is None:
                raise
            return super().add_noise(x, noise, timesteps)  # type: ignore[misc]

    def _noise_fits(self, x: Tensor, noise: Tensor, t: Tensor) -> bool:
        """Whether the kernels do with these what diffusers' `add_noise` does."""
        return (
            not _are_functorch_transforms_active()  # vmap over timesteps has no assertion on the device
            and x.shape == noise.shape
            and x.dim() > 0
            and x.dtype is noise.dtype
            and x.dtype in FLOATS
            and t.dtype in INTEGERS
            and t.shape in ((), (1,), x.shape[:1])
            and self._schedule_fits()
        )

    def _schedule_fits(self) -> bool:
        return self.alphas_cumprod.dtype is torch.float32 and not self.alphas_cumprod.requires_grad

    def _step_fits(self, model_output: Tensor, timestep: int | Tensor, sample: Tensor) -> bool:
        """Whether the kernels do with these what diffusers' `step` does."""
        if isinstance(timestep, Tensor):
            # One of shape [1] makes coefficients of shape [1] in diffusers, which widen a narrow sample.
            single = timestep.shape == (1,) and sample.dtype in (torch.float32, torch.float64)
            if timestep.dtype not in INTEGERS or not (timestep.dim() == 0 or single):
                return False
        config = self.config
        return (
            model_output.shape == sample.shape
            and sample.dim() > 0
            and sample.dtype in FLOATS
            and model_output.dtype in FLOATS
            and not config.thresholding
            and (not config.clip_sample or 0 < config.clip_sample_range < math.inf)
            and self._schedule_fits()
        )

    def _clip(self) -> float | DynamicThreshold | None:
        config = self.config
        if config.thresholding:
            return DynamicThreshold(config.dynamic_thresholding_ratio, config.sample_max_value)
        return config.clip_sample_range if config.clip_sample else None

    def _x0(self, output: Tensor, sample: Tensor, step: Tensor, table: Table) -> Tensor | None:
        """The clipped x_0 alone: a step that keeps nothing else."""
        if not self.predict_x0:
            return None
        prediction = self.config.prediction_type
        x0 = ddpm_step(
            output, sample, step, table.only_x0,
            clip=self._clip(), prediction=prediction, noise=sample.detach(),
        )  # fmt: skip
        return x0.to(output.dtype) if prediction == "sample" else x0


def several(timestep: int | Tensor) -> bool:
    """Whether there is one for each sample, which diffusers does not know."""
    return isinstance(timestep, Tensor) and timestep.dim() == 1 and timestep.shape != (1,)


def as_int(scheduler: str, timestep: int | Tensor, look: bool) -> int | Tensor:
    """A single timestep as an int; as it is where there are several or where looking at it would wait for
    a GPU, unless it is to be looked at."""
    if not isinstance(timestep, Tensor):
        try:
            return operator.index(timestep)
        except TypeError:
            raise IndexError(f"{scheduler}: timestep is {timestep!r}, expected an integer") from None
    if timestep.is_floating_point():
        raise IndexError(f"{scheduler}: timestep is {timestep.dtype}, expected an integer")
    single = timestep.dtype in INTEGERS and timestep.shape in ((), (1,))
    if single and (readable(timestep) or (look and not is_compiling())):
        return int(timestep)
    return timestep


def one_source(scheduler: str, **sources: Any) -> bool:
    """Whether the noise is to be drawn; no two sources may be given."""
    given = [name for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise ValueError(
            f"{scheduler}: {' and '.join(given)} are given, expected at most one of {', '.join(sources)}"
        )
    return given in ([], ["generator"])


def draw(like: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    return randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
