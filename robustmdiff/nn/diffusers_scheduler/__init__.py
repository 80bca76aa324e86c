"""diffusers' DDPM and DDIM schedulers with the fused step inside.

    from robustmdiff.nn import FusedDDPMScheduler

    pipe.scheduler = FusedDDPMScheduler.from_config(pipe.scheduler.config)

Configuration, timesteps, saving and loading are diffusers' own, inherited. The results are diffusers'
too, to rounding, given the same generator or noise: what the kernels do not do (dynamic thresholding,
tensors that broadcast, a schedule that is not float32) is left to diffusers' own methods. Noise from a
Philox `key` and a timestep for each sample are extras; with a key nothing waits for a GPU.
"""

from diffusers import SchedulerMixin  # a pipeline that was saved with this module's name asks for it here

from robustmdiff.nn.diffusers_scheduler.ddim import FusedDDIMScheduler
from robustmdiff.nn.diffusers_scheduler.ddpm import FusedDDPMScheduler

__all__ = ["FusedDDIMScheduler", "FusedDDPMScheduler", "SchedulerMixin"]
