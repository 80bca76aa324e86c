"""diffusers' DDPM and DDIM schedulers with the fused step inside.

    from robustmdiff.nn import FusedDDPMScheduler

    pipe.scheduler = FusedDDPMScheduler.from_config(pipe.scheduler.config)

Configuration, timesteps, saving and loading are diffusers' own, inherited. The results are diffusers'
too, to rounding, given the same generator or noise. Noise from a Philox `key` and a timestep for each
sample are extras; with a key nothing waits for a GPU.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, SchedulerMixin
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from robustmdiff.ops import DynamicThreshold, ddpm_noise, ddpm_step, ddpm_table
from robustmdiff.ops.ddpm import Coefficients


class _Fused(SchedulerMixin):
    """What the two schedulers share. (A pipeline is loaded only if this module names SchedulerMixin.)"""

    config: Any
    timesteps: Tensor
    alphas_cumprod: Tensor
    num_inference_steps: int

    # x_0 costs a pass of its own. Set to False where nobody looks at it: `step` then gives None in its place.
    predict_x0: bool = True

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
        """
        table = self._table("noise", (self.alphas_cumprod,), original_samples.device, self._noise_table)
        t = _per_sample("timesteps", timesteps, original_samples)
        return ddpm_noise(original_samples, t, table, noise=noise, key=key, row_ids=row_ids)

    def _noise_table(self) -> Tensor:
        alpha_bar = self.alphas_cumprod.float()
        return _rows(alpha_bar**0.5, (1 - alpha_bar) ** 0.5)

    def _clip(self) -> float | DynamicThreshold | None:
        config = self.config
        if config.thresholding:
            return DynamicThreshold(config.dynamic_thresholding_ratio, config.sample_max_value)
        return config.clip_sample_range if config.clip_sample else None

    def _x0(self, output: Tensor, sample: Tensor, step: Tensor, table: Tensor, like: str) -> Tensor | None:
        """The clipped x_0 alone: a step that keeps nothing else."""
        if not self.predict_x0:
            return None
        only = self._table(f"x_0 of {like}", (table,), sample.device, lambda: _only_x0(table))
        return ddpm_step(
            output, sample, step, only,
            clip=self._clip(), prediction=self.config.prediction_type, noise=sample.detach(),
        )  # fmt: skip

    def _table(
        self, name: str, of: tuple[Tensor, ...], device: torch.device, make: Callable[[], Tensor]
    ) -> Tensor:
        """make() on the device, made again when one of the tensors it is made of has been replaced."""
        kept = self.__dict__.setdefault("_tables", {})
        made_of, table = kept.get(name, ((), None))
        if table is None or table.device != device or not all(map(operator.is_, made_of, of)):
            table = make().to(device)
            kept[name] = of, table
        return table


class FusedDDPMScheduler(_Fused, DDPMScheduler):
    """`diffusers.DDPMScheduler`: same configuration, same results, one pass over the tensors."""

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        *,
        noise: Tensor | None = None,
        key: Tensor | None = None,
        row_ids: Tensor | None = None,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor | None]:
        """x_t -> x_{t-1} and the predicted x_0.

        model_output  [B, C, ...], or [B, 2 C, ...] with a learned variance, which is the second half.
        timestep      one of `timesteps`; a tensor [B] gives each sample its own.
        sample        [B, C, ...], x_t. The result has the wider of both dtypes; arithmetic is float32.
        generator     for the noise that diffusers draws too, by default torch's own.
        noise, key    instead of a generator: the noise itself, or int64 [2] (seed, offset) to draw from
                      with `row_ids` int64 [B], as in `robustmdiff.ops.ddpm_step`.

        Raises ValueError for a timestep that is not one of `timesteps` (looked at on the CPU only) and
        for variance_type "fixed_large_log", whose noise is NaN in diffusers.
        """
        variance_type = self.config.variance_type
        if variance_type == "fixed_large_log":
            raise ValueError(
                "FusedDDPMScheduler: variance_type is 'fixed_large_log', the root of a negative number in "
                "diffusers (NaN); expected another, such as 'fixed_large'"
            )
        variance_output = None
        if variance_type in ("learned", "learned_range"):
            C = sample.shape[1]
            if model_output.shape[1] != 2 * C:
                raise ValueError(
                    f"FusedDDPMScheduler: model_output has {model_output.shape[1]} channels, expected "
                    f"{2 * C}: the prediction and the variance for variance_type {variance_type!r}"
                )
            model_output, variance_output = model_output.split(C, dim=1)
            if variance_type == "learned":
                variance_output = variance_output.log()  # its table takes the log variance as it is
        sample = sample.to(torch.promote_types(sample.dtype, model_output.dtype))
        made_of = self.timesteps, self.alphas_cumprod
        table = self._table(variance_type, made_of, sample.device, self._step_table)
        step = self._steps(timestep, sample)
        if _one_source("FusedDDPMScheduler", noise=noise, key=key, generator=generator):
            last = not isinstance(timestep, Tensor) or timestep.numel() == 1
            if last and timestep <= 0:  # diffusers draws nothing there, and the step reads none
                noise, variance_output = sample.detach(), None
            else:
                noise = _draw(model_output, generator)
        previous = ddpm_step(
            model_output, sample, step, table,
            variance_output=variance_output,
            variance="fixed" if variance_output is None else "learned_range",
            clip=self._clip(), prediction=self.config.prediction_type,
            noise=noise, key=key, row_ids=row_ids,
        )  # fmt: skip
        x0 = self._x0(model_output, sample, step, table, variance_type)
        return DDPMSchedulerOutput(previous, x0) if return_dict else (previous, x0)

    def _steps(self, timestep: int | Tensor, sample: Tensor) -> Tensor:
        """int64 [B]: where each timestep stands in `timesteps`, which descend."""
        t = _per_sample("timestep", timestep, sample)
        timesteps = self.timesteps.to(sample.device)
        step = torch.searchsorted(-timesteps, -t)
        if t.device.type == "cpu" and not torch.compiler.is_compiling():
            found = timesteps[step.clamp(max=len(timesteps) - 1)] == t
            if not found.all():
                wrong = int(t[~found][0])
                raise ValueError(
                    f"FusedDDPMScheduler: timestep is {wrong}, expected one of the {len(timesteps)} of "
                    f"scheduler.timesteps, {int(timesteps[0])} to {int(timesteps[-1])}"
                )
        return step

    def _step_table(self) -> Tensor:
        variance_type = self.config.variance_type
        learned = variance_type == "learned"
        schedule = SimpleNamespace(
            alphas_cumprod=self.alphas_cumprod,
            timesteps=self.timesteps,
            config=SimpleNamespace(variance_type="fixed_small" if learned else variance_type),
        )
        table = ddpm_table(schedule)
        if learned:  # ends at which "learned_range" gives exp(variance_output / 2)
            columns = Coefficients(*table.unbind(1))
            columns.sigma.copy_(columns.sigma > 0)
            columns.log_variance_min.fill_(-1)
            columns.log_variance_max.fill_(1)
        return table


class FusedDDIMScheduler(_Fused, DDIMScheduler):
    """`diffusers.DDIMScheduler`: same configuration, same results, one pass over the tensors.

    A second pass is taken where x_0 is clipped, the direction is not derived from it again, and there
    is noise (eta > 0) or prediction_type is "sample".
    """

    final_alpha_cumprod: Tensor

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        *,
        key: Tensor | None = None,
        row_ids: Tensor | None = None,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor | None]:
        """Song et al. 2021, eq. 12 and 16: x_t -> x_prev and the predicted x_0.

        timestep  0 to num_train_timesteps - 1; a tensor [B] gives each sample its own.
        eta       0: deterministic; 1: the variance of DDPM.
        key       instead of generator and variance_noise, with `row_ids`; see `FusedDDPMScheduler.step`.
        """
        if self.num_inference_steps is None:
            raise ValueError("FusedDDIMScheduler: no timesteps yet, expected a call of set_timesteps first")
        sample = sample.to(torch.promote_types(sample.dtype, model_output.dtype))
        clip, prediction = self._clip(), self.config.prediction_type
        derived = clip is None or use_clipped_model_output
        source = "x_0" if derived else prediction
        name = f"{self.num_inference_steps} steps, eta {eta}, direction from {source}"
        made_of = self.alphas_cumprod, self.final_alpha_cumprod
        table = self._table(name, made_of, sample.device, lambda: self._coefficients(eta, source))
        step = _per_sample("timestep", timestep, sample) + 1
        if eta <= 0:
            variance_noise, key, row_ids = model_output, None, None  # weighted by the column of sigma
        elif _one_source("FusedDDIMScheduler", variance_noise=variance_noise, key=key, generator=generator):
            variance_noise = _draw(model_output, generator)
        previous = ddpm_step(
            model_output, sample, step, table,
            clip=clip, prediction=prediction, noise=variance_noise, key=key, row_ids=row_ids,
        )  # fmt: skip
        if source == "sample" or (eta > 0 and not derived):
            weight = table[:, Coefficients._fields.index("log_variance_min")][step].to(sample.dtype)
            previous = previous + weight.view(-1, *[1] * (sample.dim() - 1)) * model_output
        x0 = self._x0(model_output, sample, step, table, name)
        return DDIMSchedulerOutput(previous, x0) if return_dict else (previous, x0)

    def _coefficients(self, eta: float, source: str) -> Tensor:
        """float32 [T + 1, 8]. Row t + 1 belongs to timestep t; t = -1, which "trailing" timesteps may end
        with where their division rounds badly, counts as the last one, as torch's indexing has it.

        a and b are the roots of alpha bar and 1 - alpha bar. The direction to x_t is d e with the noise
        e = (x_t - a x_0) / b, so x_prev = (a_prev - d a / b) x_0 + (d / b) x_t + sigma z. Where x_0 is
        clipped and e is not derived from it but from what the model predicts (`source`), the share of
        x_t in d e goes to weight_xt, and that of the model's output takes the place of the noise where
        there is none, or else goes to the column log_variance_min, which is free.
        """
        T = self.config.num_train_timesteps
        t = torch.arange(-1, T)
        before = t - T // self.num_inference_steps
        final, alpha_bars = self.final_alpha_cumprod.cpu().float(), self.alphas_cumprod.cpu().float()
        alpha_bar = alpha_bars[t]
        alpha_bar_prev = torch.where(before < 0, final, alpha_bars[before.clamp(min=0)])
        # In float32 as in diffusers: 1 - alpha_bar / alpha_bar_prev loses digits there, and must here too.
        variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
        sigma = eta * variance**0.5
        a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        a_prev, d = alpha_bar_prev**0.5, (1 - alpha_bar_prev - sigma**2) ** 0.5
        a64, b64, d64 = a.double(), b.double(), d.double()
        of_x0, of_xt, of_output = {
            "x_0": (a_prev - d64 * a64 / b64, d64 / b64, 0 * d64),
            "epsilon": (a_prev, 0 * d64, d64),
            "sample": (a_prev, d64 / b64, -d64 * a64 / b64),
            "v_prediction": (a_prev, d64 * b64, d64 * a64),
        }[source]
        if eta <= 0 and source != "sample":  # there of_output is negative, and no sigma can be
            sigma = of_output
        return _rows(*(x.float() for x in (a, b, of_x0, of_xt, sigma, of_output)))


def _rows(*columns: Tensor) -> Tensor:
    """float32 [n, 8]: a table of these first columns, 0 in the others."""
    table = torch.stack(columns, 1)
    return torch.nn.functional.pad(table, (0, len(Coefficients._fields) - len(columns))).contiguous()


def _only_x0(table: Tensor) -> Tensor:
    columns = Coefficients(*table.unbind(1))
    return _rows(columns.sqrt_alpha_bar, columns.sqrt_beta_bar, torch.ones_like(columns.weight_x0))


def _per_sample(name: str, timestep: int | Tensor, sample: Tensor) -> Tensor:
    """int64 [B]: one timestep for all samples, or one for each."""
    B = sample.shape[0]
    if not isinstance(timestep, Tensor):
        return torch.full((B,), int(timestep), device=sample.device)
    if timestep.shape not in ((), (1,), (B,)) or timestep.is_floating_point():
        raise ValueError(
            f"{name} is {timestep.dtype} {list(timestep.shape)}, expected an integer or integers [{B}], "
            "one for each sample"
        )
    return timestep.to(sample.device, torch.int64).expand(B)


def _one_source(scheduler: str, **sources: Any) -> bool:
    """Whether the noise is to be drawn; no two sources may be given."""
    given = [name for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise ValueError(
            f"{scheduler}: {' and '.join(given)} are given, expected at most one of {', '.join(sources)}"
        )
    return given in ([], ["generator"])


def _draw(like: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    return randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
