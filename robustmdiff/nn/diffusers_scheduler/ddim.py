"""`FusedDDIMScheduler`."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from robustmdiff.nn.diffusers_scheduler.fused import Fused, as_int, draw, one_source, several
from robustmdiff.nn.diffusers_scheduler.tables import (
    Table,
    at_hand,
    count_writes,
    ddim_steps,
    on_device,
    rows_at,
)
from robustmdiff.ops import ddpm_step
from robustmdiff.ops.ddpm.arguments import PREDICTIONS
from robustmdiff.ops.ddpm.check import one_of


class FusedDDIMScheduler(Fused, DDIMScheduler):
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
        key       instead of generator and variance_noise, with `row_ids`; see `FusedDDPMScheduler.step`,
                  also for the errors.
        """
        name = "FusedDDIMScheduler"
        if self.num_inference_steps is None:
            raise ValueError(f"{name}: no timesteps yet, expected a call of set_timesteps first")
        drawn = False
        if eta <= 0:
            variance_noise, key, row_ids = None, None, None
        else:
            drawn = one_source(name, variance_noise=variance_noise, key=key, generator=generator)
        time = as_int(name, timestep, look=drawn)
        if key is None and row_ids is None and not several(timestep):
            fits = variance_noise is None or variance_noise.shape == sample.shape
            if not fits or not self._step_fits(model_output, timestep, sample):
                return super().step(  # type: ignore[misc]
                    model_output, timestep, sample, eta, use_clipped_model_output, generator, variance_noise,
                    return_dict,
                )  # fmt: skip
        clip, prediction = self._clip(), self.config.prediction_type
        one_of(name, "prediction_type", prediction, PREDICTIONS)
        if sample.dtype is not model_output.dtype:
            sample = sample.to(torch.promote_types(sample.dtype, model_output.dtype))
        derived = clip is None or use_clipped_model_output
        source = "x_0" if derived else prediction
        table, of_output = self._table(eta, source, sample.device)
        step = rows_at(table, time, sample, self._no_such_timestep)
        if eta <= 0:
            variance_noise = model_output  # weighted by the column of sigma
        elif drawn:
            variance_noise = draw(model_output, generator)
        previous = ddpm_step(
            model_output, sample, step, table.steps,
            clip=clip, prediction=prediction, noise=variance_noise, key=key, row_ids=row_ids,
        )  # fmt: skip
        if source == "sample" or (eta > 0 and not derived):
            weight = of_output[step].to(sample.dtype)
            previous = previous + weight.view(-1, *[1] * (sample.dim() - 1)) * model_output
        x0 = self._x0(model_output, sample, step, table)
        return DDIMSchedulerOutput(previous, x0) if return_dict else (previous, x0)

    def _table(self, eta: float, source: str, device: torch.device) -> tuple[Table, Tensor]:
        """The table, and what the model's output weighs in the direction, float32 [S]."""
        count_writes(self, "alphas_cumprod", "final_alpha_cumprod")
        alpha_bars, final = self.alphas_cumprod, self.final_alpha_cumprod
        stride = self.config.num_train_timesteps // self.num_inference_steps

        def make() -> tuple[Table, Tensor]:
            steps, timesteps, of_output = ddim_steps(at_hand(alpha_bars), at_hand(final), stride, eta, source)
            return on_device(steps, timesteps, device), of_output.to(device)

        return self._tables.get("steps", (device, stride, eta, source), (alpha_bars, final), make)

    def _no_such_timestep(self, timestep: object) -> str:
        return f"FusedDDIMScheduler: timestep is {timestep}, expected 0 to {len(self.alphas_cumprod) - 1}"


FusedDDIMScheduler.__name__ = DDIMScheduler.__name__  # under which it is saved: see `Fused.__new__`
