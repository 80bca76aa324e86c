"""From the gist of an image to the image: what a global latent leaves out, by a flow on a grid."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from robustmdiff.diagnosis.noise import PatientNoise
from robustmdiff.generation.latents.latent import ImageLatent
from robustmdiff.generation.residual_flow import Known, ResidualFlow
from robustmdiff.training.budget import budget
from robustmdiff.training.checkpoint import LAST
from robustmdiff.training.config import LoopConfig
from robustmdiff.training.contract import Objective
from robustmdiff.training.loop import Loop, TrainResult, claim, make_accelerator
from robustmdiff.training.rows import RowPlan

SAMPLE_STEPS = 4
TIME, NOISE = range(2)  # streams of random numbers


class Detail(nn.Module):
    """x given its gist z: a `ResidualFlow` around the image that z decodes to.

    A network on a grid does not learn in minutes what a prompt asks for, while one on principal components
    does; they are smooth, and this gives them the texture that they lack.

    gist  a vector latent of the modality, grid  a grid latent of it; neither is trained any more
    """

    def __init__(self, gist: ImageLatent, grid: ImageLatent, widths: tuple[int, int] = (32, 64)) -> None:
        super().__init__()
        self.gist, self.grid = gist.requires_grad_(False), grid.requires_grad_(False)
        self.flow = ResidualFlow(grid.shape, 0, 0, widths)

    def known(self, z: Tensor) -> Known:
        """Of gists z [n, k]."""
        return around(self.grid.encode(self.gist.decode(z)))

    @torch.no_grad()
    def sample(
        self, z: Tensor, steps: int = SAMPLE_STEPS, *, key: Tensor, row_ids: Tensor | None = None
    ) -> Tensor:
        """An image [n, C, H, W] for each gist z [n, k]; the others as in `ResidualFlow.sample`."""
        drawn = self.flow.sample(self.known(z), 1, steps, key=key, row_ids=row_ids)
        return self.grid.decode(drawn[:, 0])


def around(draft: Tensor) -> Known:
    """A draft [n, c, h, w] beside which nothing is known."""
    n, _, h, w = draft.shape
    return Known(draft, draft.new_empty(n, 0, h, w), draft.new_empty(n, 0))


class DetailConfig(LoopConfig):
    """How to train the detail of a modality."""

    learning_rate: float = Field(1.5e-3, gt=0, description="highest, after the warm-up; falls as a cosine")
    batch_size: int | None = Field(32, ge=1, description="images per step, over all processes")
    ema_decay: float = Field(0.995, ge=0, lt=1, description="of the averaged weights that are evaluated")


class DetailObjective(Objective):
    """The squared error of the flow's velocity."""

    model: Detail

    def __init__(self, model: Detail) -> None:
        super().__init__(model)
        self.key = 0

    def before_step(self, key: int) -> None:
        self.key = key

    def forward(self, z: Tensor, draft: Tensor, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents of images on the grid, and those of what their gist decodes to, [n, c, h, w]; the numbers
        of the images, int64 [n]."""
        noise = PatientNoise(ids, torch.tensor(self.key, device=z.device))
        t = noise.normal(1, TIME)[:, 0].sigmoid()
        loss = self.model.flow.loss(z, t, around(draft), key=noise.key(NOISE), row_ids=ids).mean()
        return loss, {"flow": loss.detach()}


def train_detail(
    detail: Detail,
    x: Tensor,
    config: DetailConfig,
    out_dir: Path,
    resume: bool = False,
    device: torch.device | None = None,
) -> TrainResult:
    """Train it on images x [n, C, H, W], in [-1, 1]. Raises as `training.loop` does."""
    claim(out_dir, resume)
    accelerator = make_accelerator(config, out_dir, device)
    with torch.no_grad():
        z = detail.grid.encode(x)
        draft = detail.known(detail.gist.encode(x)).draft
    if not (out_dir / LAST).exists():
        detail.flow.fit(z - draft)
    length = budget(len(x), config, "images")
    columns = [z, draft, torch.arange(len(x))]
    shared = {"processes": accelerator.num_processes, "accumulate": config.accumulate}
    return Loop(
        DetailObjective(detail),
        RowPlan(columns, length, config.seed, **shared),
        config,
        out_dir,
        accelerator,
        name=f"the detail of {out_dir.name}",
        data={"images": len(x), "grid": list(detail.grid.shape), "gist": list(detail.gist.shape)},
        notes=length.notes,
    ).run()
