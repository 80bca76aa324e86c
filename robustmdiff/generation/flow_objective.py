"""What a stage of a multi-flow model minimises: the error of each velocity, and what is drawn for it."""

from __future__ import annotations

from itertools import combinations
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.special import ndtr

from robustmdiff.alignment.contrast import info_nce
from robustmdiff.diffusion.sample import pure_noise
from robustmdiff.diffusion.schedule import Level
from robustmdiff.generation.guidance import draw_prompts
from robustmdiff.generation.multi_flow import MultiFlow, stream
from robustmdiff.ops import philox_key
from robustmdiff.training.config import LoopConfig
from robustmdiff.training.contract import Objective

TEMPERATURE = 0.1  # of InfoNCE between environment vectors


class FlowConfig(LoopConfig):
    """How to train a stage of a multi-flow model. Shares are of rows, drawn anew in every step."""

    learning_rate: float = Field(1.5e-3, gt=0, description="highest, after the warm-up; falls as a cosine")
    batch_size: int | None = Field(128, ge=1, description="patients per step, over all processes")
    ema_decay: float = Field(0.995, ge=0, lt=1, description="of the averaged weights that are evaluated")
    null: float = Field(0.1, ge=0, le=1, description="share whose prompts are null ones of their kinds")
    unprompted: float = Field(0.2, ge=0, le=1, description="share that is told no prompt at all")
    alone: float = Field(
        0.25, ge=0, le=1, description="share whose flows do not read one another; of others some are read"
    )
    known: float = Field(0.0, ge=0, le=1, description="share in which one flow is clean, and only read")
    contrast: float = Field(
        0.0, ge=0, description="weight of InfoNCE between environment vectors; a batch then has one t"
    )


class Stage(NamedTuple):
    """flows   that step together
    trains  "flows": their networks and prompt mixing, each by itself; "links": with these frozen, how they
            read one another, of flows and sub-layers that no earlier stage has linked (the published form);
            "all": both at once
    """

    name: str
    flows: tuple[str, ...]
    trains: Literal["flows", "links", "all"]


class Drawn(NamedTuple):
    """What is random in a step; bool [b], [b, M] or [b, flows].

    t          float [b, flows], 0 where a flow is clean
    told       which prompts a row is told
    dropped    whose prompts are null ones
    generated  where the flow is to say its velocity
    seen       where the flow may be read
    """

    t: Tensor
    told: Tensor
    dropped: Tensor
    generated: Tensor
    seen: Tensor


class FlowObjective(Objective):
    """The squared error of each flow's velocity, its mean over a latent's numbers, in the rows that have the
    modality and are to generate it.

    Prompts are those of modalities that are not flows of the stage. Where "all" is trained they are of any
    modality: a row that is told of one is given it, does not generate it, and does not read its flow.
    """

    model: MultiFlow

    def __init__(self, model: MultiFlow, stage: Stage, config: FlowConfig) -> None:
        super().__init__(model)
        self.stage, self.config, self.key = stage, config, 0
        own = () if stage.trains == "all" and len(stage.flows) > 1 else stage.flows
        self.prompting = torch.tensor([name not in own for name in model.names])
        self.place = [model.names.index(name) for name in stage.flows]  # among all modalities

    def before_step(self, key: int) -> None:
        self.key = key

    def forward(
        self, ids: Tensor, h: Tensor, m: Tensor, present: Tensor, *latents: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """ids int64 [b] of the rows; their prompts; present bool [b, flows]; the latents of the stage's flows
        [b, *shape], finite where they are absent, too."""
        model, names, drawn = self.model, self.stage.flows, self.draw(ids, m, present)
        process, t, x, wanted = model.process, {}, {}, {}
        for name, z, own in zip(names, latents, drawn.t.T, strict=True):
            eps = pure_noise(z, stream(philox_key(self.key, device=z.device), name), ids)
            level = process.level(own)
            t[name] = process.time(level)
            level = Level(*(each.view(-1, *[1] * (z.dim() - 1)) for each in level))
            x[name], wanted[name] = level.a * z + level.s * eps, process.wanted(z, eps, level)
        v = {} if self.stage.trains == "flows" else model.environments(x, t)
        c = model.told(h, drawn.told, names, drawn.dropped)
        now = process.time(process.level(drawn.t.amax(1)))
        said = model.velocity(x, now, c, v, dict(zip(names, drawn.seen.T, strict=True)))
        error = torch.stack([(said[n] - wanted[n]).square().flatten(1).mean(1) for n in names], dim=1)
        error = error * drawn.generated
        terms = dict(zip(names, error.sum(0) / drawn.generated.sum(0).clamp(min=1), strict=True))
        loss = error.sum(1).mean()
        if self.config.contrast and v:
            terms["contrast"] = self.contrast(v, drawn.seen & drawn.generated)
            loss = loss + self.config.contrast * terms["contrast"]
        return loss, {name: term.detach() for name, term in terms.items()}

    def contrast(self, v: dict[str, Tensor], seen: Tensor) -> Tensor:
        """InfoNCE [], the mean over all pairs of flows, each over the rows that have both."""
        scale, terms = seen.new_tensor(1 / TEMPERATURE, dtype=torch.float32).log(), [torch.zeros(())]
        for (i, a), (j, b) in combinations(enumerate(v.values()), 2):
            both = seen[:, i] & seen[:, j]
            if both.any():
                terms.append(info_nce(a[both], b[both], scale))
        return torch.stack([each.to(seen.device) for each in terms]).sum() / max(1, len(terms) - 1)

    def draw(self, ids: Tensor, m: Tensor, present: Tensor) -> Drawn:
        """A function of the step and the row alone."""
        c, (b, F), M = self.config, present.shape, m.shape[1]
        key = philox_key(self.key, device=m.device)
        z = pure_noise(torch.zeros(b, 6 + M + 1 + F, device=m.device), key, ids)
        if c.contrast:  # one t: of several, t alone would tell which vectors belong together
            z[:, 0] = pure_noise(z[:1, :1], key, ids.new_zeros(1))[0, 0]
        unprompted, dropped, alone, known, share = ndtr(z[:, 1:6]).T
        which, other = ndtr(z[:, 6:]).split([M + 1, F], dim=1)
        told = draw_prompts(m & self.prompting.to(m.device), which) & (unprompted >= c.unprompted)[:, None]
        generated = present & ~told[:, self.place]
        first = other.masked_fill(~generated, -1)
        rank = first.argsort(dim=1, descending=True).argsort(dim=1)
        count = 1 + (share * generated.sum(1)).long()  # of those that may be read, each number as often
        seen = generated & (rank < count[:, None]) & (alone >= c.alone)[:, None]
        clean = (rank == 0) & seen & (known < c.known)[:, None]
        t = z[:, :1].sigmoid().masked_fill(clean, 0)
        return Drawn(t, told, dropped < c.null, generated & ~clean, seen)
