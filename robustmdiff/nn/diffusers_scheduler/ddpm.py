"""`FusedDDPMScheduler`."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from torch import Tensor

from robustmdiff.nn.diffusers_scheduler.fused import Fused, as_int, draw, one_source, several
from robustmdiff.nn.diffusers_scheduler.tables import (
    Table,
    at_hand,
    count_writes,
    ddpm_steps,
    on_device,
    rows_at,
)
from robustmdiff.ops import ddpm_step
from robustmdiff.ops.ddpm.arguments import PREDICTIONS
from robustmdiff.ops.ddpm.check import one_of


class FusedDDPMScheduler(Fused, DDPMScheduler):
    """`diffusers.DDPMScheduler`: same configuration, same results, one pass over the tensors."""

    variance_type: str
    custom_timesteps: bool

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

        Raises IndexError where diffusers does: for a timestep that is no integer, not one of `timesteps`
        or not in the schedule (an assertion on the device where nothing waits to look at it: on a GPU with
        key or noise, and in a compiled graph). Raises ValueError for variance_type "fixed_large_log",
        whose noise is NaN in diffusers, and where the output lacks the variance that is learned.
        """
        name = "FusedDDPMScheduler"
        drawn = one_source(name, noise=noise, key=key, generator=generator)
        time = as_int(name, timestep, look=drawn)
        last = isinstance(time, int) and time <= 0  # diffusers draws nothing there, and the step reads none
        prediction, variance_type = self.config.prediction_type, self.config.variance_type
        output, variance_output = model_output, None
        if self.variance_type in ("learned", "learned_range"):
            C = sample.shape[1]
            if output.shape[1] == 2 * C:
                output, variance_output = output.split(C, dim=1)
            elif not last:
                raise ValueError(
                    f"{name}: model_output has {output.shape[1]} channels, expected {2 * C}: "
                    f"the prediction and the variance for variance_type {variance_type!r}"
                )
        if variance_type == "fixed_large_log" and not last:
            raise ValueError(
                f"{name}: variance_type is 'fixed_large_log', the root of a negative number in "
                "diffusers (NaN); expected another, such as 'fixed_large'"
            )
        if drawn and row_ids is None and not several(timestep):
            fits = variance_type == self.variance_type and self._step_fits(output, timestep, sample)
            if not fits:
                return super().step(  # type: ignore[misc]
                    model_output, timestep, sample, generator, return_dict
                )
        one_of(name, "prediction_type", prediction, PREDICTIONS)
        if sample.dtype is not output.dtype:
            sample = sample.to(torch.promote_types(sample.dtype, output.dtype))
        table = self._table(sample.device)
        step = rows_at(table, time, sample, self._no_such_timestep)
        if drawn:
            noise = sample.detach() if last else draw(output, generator)
        if last:
            variance_output = None
        elif variance_output is not None and variance_type == "learned":
            variance_output = variance_output.log()  # its table takes the log variance as it is
        previous = ddpm_step(
            output, sample, step, table.steps,
            variance_output=variance_output,
            variance="fixed" if variance_output is None else "learned_range",
            clip=self._clip(), prediction=prediction, noise=noise, key=key, row_ids=row_ids,
        )  # fmt: skip
        x0 = self._x0(output, sample, step, table)
        return DDPMSchedulerOutput(previous, x0) if return_dict else (previous, x0)

    def _table(self, device: torch.device) -> Table:
        count_writes(self, "alphas_cumprod", "timesteps")
        alpha_bars, variance_type = self.alphas_cumprod, self.config.variance_type
        # As diffusers has it: until they are set, the timesteps are all, whatever `timesteps` says.
        timesteps = self.timesteps if self.custom_timesteps or self.num_inference_steps else None
        of = (alpha_bars,) if timesteps is None else (alpha_bars, timesteps)

        def make() -> Table:
            own = None if timesteps is None else at_hand(timesteps)
            return on_device(*ddpm_steps(at_hand(alpha_bars), own, variance_type), device)

        return self._tables.get("steps", (device, variance_type, len(of)), of, make)

    def _no_such_timestep(self, timestep: object) -> str:
        return (
            f"FusedDDPMScheduler: timestep is {timestep}, expected one of the {len(self.timesteps)} of "
            f"scheduler.timesteps that is in the schedule, 0 to {len(self.alphas_cumprod) - 1}"
        )


FusedDDPMScheduler.__name__ = DDPMScheduler.__name__  # under which it is saved: see `Fused.__new__`
