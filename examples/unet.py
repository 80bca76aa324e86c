"""A diffusers pipeline with our scheduler and our attention: same images from the same generator.

python examples/unet.py        needs diffusers
"""

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.models.attention_processor import Attention

from robustmdiff.nn import FusedDDPMScheduler, MaskedAttnProcessor
from robustmdiff.ops import philox_key

torch.manual_seed(0)  # with a trained one: DDPMPipeline.from_pretrained(path)
unet = UNet2DModel(
    sample_size=16,
    block_out_channels=(16, 32),
    layers_per_block=1,
    norm_num_groups=8,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
pipe = DDPMPipeline(unet, DDPMScheduler(beta_schedule="squaredcos_cap_v2"))
pipe.set_progress_bar_config(disable=True)


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return pipe(batch_size=2, num_inference_steps=20, generator=generator, output_type="pt").images


theirs = images()

pipe.scheduler = FusedDDPMScheduler.from_config(pipe.scheduler.config)
for module in unet.modules():  # UNet2DConditionModel has set_attn_processor for this
    if isinstance(module, Attention):
        module.set_processor(MaskedAttnProcessor())
ours = images()

torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
print(f"greatest difference between two images after 20 steps: {(ours - theirs).abs().max():.1e}")

# Extras: each image at a timestep of its own, and noise that belongs to the image and not to the batch.
x, timestep, key = torch.randn(2, 3, 16, 16), torch.tensor([950, 400]), philox_key(seed=7)
with torch.no_grad():
    step = pipe.scheduler.step(unet(x, timestep).sample, timestep, x, key=key)
print(f"two images, two timesteps, one step: {list(step.prev_sample.shape)}")
