"""An autoencoder that the loop trains: no task, no patients, no masks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from robustmdiff.training.budget import budget
from robustmdiff.training.config import LoopConfig
from robustmdiff.training.contract import Objective, Part, Validation
from robustmdiff.training.loop import Loop, TrainResult, claim, make_accelerator
from robustmdiff.training.order import Order

CONFIG = LoopConfig(
    epochs=6, batch_size=7, accumulate=2, learning_rate=0.01, ema_decay=0.9, save_every=4, log_every=3, seed=2
)


def draw_images(n: int, seed: int) -> Tensor:
    """float32 [n, 1, 5, 3] of rank 2, which an autoencoder can learn."""
    g = torch.Generator().manual_seed(seed)
    patterns = torch.randn(2, 15, generator=torch.Generator().manual_seed(0))
    return (torch.randn(n, 2, generator=g) @ patterns).view(n, 1, 5, 3)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Flatten(), nn.Linear(15, 11), nn.Tanh(), nn.Dropout(0.1))
        self.latent = nn.Linear(11, 4)
        self.decode = nn.Linear(4, 15)
        self.register_buffer("key", torch.zeros((), dtype=torch.int64))

    def reconstruct(self, z: Tensor) -> Tensor:
        return self.decode(z).view(-1, 1, 5, 3)


class Reconstruction(Objective):
    """Mean square error from a noised latent, and the latent's size."""

    model: Autoencoder
    slow = 0.0

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        time.sleep(self.slow)
        mean = self.model.latent(self.model.encode(images))
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(int(self.model.key)))
        noise = noise.to(mean.device)
        error = (self.model.reconstruct(mean + 0.1 * noise) - images).square().mean()
        size = mean.square().mean()
        return error + 0.01 * size, {"error": error, "size": size}

    def before_step(self, key: int) -> None:
        self.model.key.fill_(key)


class ImagePlan:
    """The images of a step, each named by its number."""

    def __init__(self, images: Tensor, config: LoopConfig, processes: int) -> None:
        length = budget(len(images), config, "images")
        self.images, self.epoch_steps, self.steps = images, length.epoch_steps, length.steps
        self.order = Order(
            len(images), length, config.seed, processes=processes, accumulate=config.accumulate
        )

    def parts(self, step: int, process: int, device: torch.device) -> Iterator[Part]:
        batch = self.order.batch(step)
        for place in self.order.places(step, process):
            mine = batch[place]
            yield Part((self.images[mine].to(device),), [str(i) for i in mine], len(mine) / len(batch))


def run(out_dir: Path, resume: bool = False, slow: float = 0.0, config: LoopConfig = CONFIG) -> TrainResult:
    claim(out_dir, resume)
    torch.manual_seed(5)
    objective = Reconstruction(Autoencoder())
    objective.slow = slow
    accelerator = make_accelerator(config, out_dir)
    held_out = draw_images(13, 1).to(accelerator.device)

    @torch.no_grad()
    def measure() -> dict[str, float]:
        model = objective.model.eval()
        error = (model.reconstruct(model.latent(model.encode(held_out))) - held_out).square().mean()
        model.train()
        return {"error": error.item()}

    return Loop(
        objective,
        ImagePlan(draw_images(45, 3), config, accelerator.num_processes),
        config,
        out_dir,
        accelerator,
        name="autoencoder",
        data={"images": [45, 1, 5, 3]},
        validation=Validation(measure, "error", higher=False, of="13 images"),
    ).run()
