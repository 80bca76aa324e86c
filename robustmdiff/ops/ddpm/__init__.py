"""The DDPM step as one op: guidance, x_0, clipping, posterior mean and noise in one pass."""

from robustmdiff.ops.ddpm.definition import DynamicThreshold
from robustmdiff.ops.ddpm.noise import ddpm_noise, ddpm_noise_loss
from robustmdiff.ops.ddpm.step import ddpm_step
from robustmdiff.ops.ddpm.table import Coefficients, ddpm_table

__all__ = ["Coefficients", "DynamicThreshold", "ddpm_noise", "ddpm_noise_loss", "ddpm_step", "ddpm_table"]
