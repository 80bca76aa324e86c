"""Cross-guided multi-flow diffusion: the flows of all modalities step together and read one another."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from robustmdiff.data.task import Task
from robustmdiff.diffusion.sample import (
    Velocity,
    guided,
    pure_noise,
    sample_ddim,
    sample_ddpm,
    sample_dpmpp_2m,
    sample_heun,
)
from robustmdiff.diffusion.schedule import Level
from robustmdiff.generation.guidance import PromptMixing
from robustmdiff.generation.networks.cross_guidance import CrossGuidance
from robustmdiff.generation.networks.environment import ENVIRONMENT, EnvironmentEncoder
from robustmdiff.generation.networks.grid import GridNetwork
from robustmdiff.generation.networks.vector import DEPTH, WIDTH, VectorNetwork
from robustmdiff.generation.process import PROCESSES
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import unknown

STEPS = 8
GATE = 0.1  # before anything is learned

Told = Mapping[str, Tensor]  # c of each flow


class Condition(NamedTuple):
    """c of each flow, and the environment vectors [n, k] of what is known."""

    c: Told
    v: dict[str, Tensor]


class Flow(nn.Module):
    """The flow of one modality.

    network      says the velocity of its noisy latent
    mixing       makes one vector of the prompts
    environment  tells the others where it stands
    gates        [blocks]: tanh of them is how much each block takes from the others
    """

    def __init__(self, shape: Sequence[int], kinds: Sequence[str], d: int, width: int, depth: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        vector = len(shape) == 1
        self.network = (
            VectorNetwork(shape[0], d, width, depth) if vector else GridNetwork((shape[0], shape[0]), d)
        )
        self.mixing = PromptMixing(kinds, d)
        self.environment = EnvironmentEncoder(shape)
        self.gates = nn.Parameter(torch.full((len(self.network.block_widths),), GATE))


class MultiFlow(nn.Module):
    """A rectified flow of each modality's latent, guided by prompts and by the flows generated with it.

        x = model.sample(["xray", "report"], h, m, key=philox_key(0))   # latents, by modality

    task    whose modalities are prompts; a flow's modality is one of them
    shapes  of one latent by modality, for each that has a flow: [D] of a vector, [c, height, width] of a grid
    d       numbers of a prompt
    process "straight": rectified flows; "cosine": diffusions in v, the published form (`process`)
    width, depth  of the network of a vector (`VectorNetwork`)

    All flows stand at one t. Behind every block a flow reads the environment vectors of the others, never
    its own, through a cross-attention sub-layer that flows of one kind share (MedM2G, Zhan et al. 2024: a
    re-implementation of the published description).
    """

    def __init__(
        self,
        task: Task,
        shapes: Mapping[str, Sequence[int]],
        d: int,
        process: str = "straight",
        *,
        width: int = WIDTH,
        depth: int = DEPTH,
    ) -> None:
        super().__init__()
        if process not in PROCESSES:
            raise Refusal(unknown("process", process, list(PROCESSES)))
        self.process = PROCESSES[process]
        names = task.modality_names
        if missing := [name for name in shapes if name not in names]:
            raise Refusal(f"MultiFlow: {unknown('modality', missing[0], names)}")
        kinds = [modality.kind for modality in task.modalities]
        self.names, self.d = names, d
        self.flows = nn.ModuleDict(
            {name: Flow(shape, kinds, d, width, depth) for name, shape in shapes.items()}
        )
        self.sharing: dict[str, str] = {}  # which sub-layers a flow reads through
        self.cross = nn.ModuleDict()
        for name in shapes:
            widths = self.flow(name).network.block_widths
            shared = "_".join([task.modality(name).kind, *map(str, widths)])
            self.sharing[name] = shared
            if shared not in self.cross:
                self.cross[shared] = nn.ModuleList(CrossGuidance(width, ENVIRONMENT) for width in widths)

    def flow(self, name: str) -> Flow:
        """Refusal for a modality that has none."""
        if name not in self.flows:
            raise Refusal(unknown("flow", name, list(self.flows)))
        return cast(Flow, self.flows[name])

    def told(
        self, h: Tensor, m: Tensor, to: Iterable[str], dropped: Tensor | None = None
    ) -> dict[str, Tensor]:
        """c [n, d] of each of the flows `to`; arguments as in `PromptMixing`."""
        return {name: self.flow(name).mixing(h, m, dropped) for name in to}

    def environments(self, x: Mapping[str, Tensor], t: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The vectors v [n, k] of these latents x [n, *shape], each at its own t: 0 for one that is clean."""
        return {name: self.flow(name).environment(x[name], t[name]) for name in x}

    def velocity(
        self,
        x: Mapping[str, Tensor],
        t: Tensor,
        c: Told,
        v: Mapping[str, Tensor],
        seen: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """What each flow says of x [n, *shape], at t [n] or []: its dx / dt, or v of a diffusion.

        v     environment vectors, of flows of x or of others
        seen  bool [n] by flow: the rows whose vector may be read; None: all
        """
        if seen is None:
            seen = {name: torch.ones_like(each[:, 0], dtype=torch.bool) for name, each in v.items()}
        out = {}
        for name, each in x.items():
            others = self.read_by(name, v)
            guide = None
            if others:
                vectors = torch.stack([v[other] for other in others], dim=1)
                guide = partial(self._guide, name, vectors, torch.stack([seen[other] for other in others], 1))
            out[name] = self.flow(name).network(each, t, c[name], guide)
        return out

    def read_by(self, name: str, flows: Collection[str]) -> list[str]:
        """The flows that a flow reads: the others. (The public code of CoDi and its successors has each read
        its own vector, and nothing passes between them.)"""
        return [other for other in flows if other != name]

    def _guide(self, name: str, v: Tensor, seen: Tensor, block: int, h: Tensor) -> Tensor:
        sublayers = cast(nn.ModuleList, self.cross[self.sharing[name]])
        return h + self.flow(name).gates[block].tanh() * sublayers[block](h, v, seen)

    @torch.no_grad()
    def sample(
        self,
        to: Sequence[str],
        h: Tensor,
        m: Tensor,
        *,
        key: Tensor,
        row_ids: Tensor | None = None,
        steps: int = STEPS,
        sampler: str | None = None,
        guidance: float = 1.0,
        known: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Latents [n, *shape] of the modalities `to`, generated together.

        h, m      prompts [n, M, d] and which there are, bool [n, M]: any, or none
        key       int64 [2], with row_ids int64 [n] as in `pure_noise`. A modality's noise is its own: it is
                  the same whatever else is generated.
        guidance  classifier-free (Ho and Salimans 2022): 0 asks for nothing, 1 for what the prompts and what
                  is known say, each at one evaluation a step instead of two
        sampler   one of the process's, its first if None: "euler" or "heun" (at two evaluations a step) of
                  rectified flows; "ddim", "ddpm" or "dpmpp_2m" of diffusions, of at most 1,000 steps
        known     clean latents [n, *shape] by modality, which the flows read as they read one another
        Refusal for a modality without a flow, one that is named twice, an unknown sampler, and steps below 1.
        """
        known, sampler = known or {}, sampler or self.process.samplers[0]
        self._check(to, known, steps, sampler, h)
        shapes = [self.flow(name).shape for name in to]
        sizes = [torch.Size(shape).numel() for shape in shapes]
        clean = self.environments(known, dict.fromkeys(known, h.new_zeros(())))

        def by_flow(flat: Tensor) -> dict[str, Tensor]:
            parts = zip(to, flat.split(sizes, dim=1), shapes, strict=True)
            return {name: part.unflatten(1, shape) for name, part, shape in parts}

        def velocity(flat: Tensor, level: Level, condition: Condition) -> Tensor:
            c, v = condition
            x = by_flow(flat)
            t = self.process.time(level)
            if len(to) > 1:  # or nobody would read it
                v = self.environments(x, dict.fromkeys(x, t)) | v
            return torch.cat([each.flatten(1) for each in self.velocity(x, t, c, v).values()], dim=1)

        follow, condition = self._guided(velocity, h, m, to, clean, guidance)
        x = torch.cat(
            [
                pure_noise(h.new_zeros(len(h), size), stream(key, name), row_ids)
                for name, size in zip(to, sizes, strict=True)
            ],
            dim=1,
        )
        path: Any = self.process.path(steps)
        if sampler == "heun":
            return by_flow(sample_heun(follow, path, x, condition))

        def denoise(x: Tensor, level: Level, condition: Any) -> Tensor:
            return self.process.x_0(x, follow(x, level, condition), level)

        if sampler == "ddpm":
            return by_flow(sample_ddpm(denoise, path, x, condition, key=key, row_ids=row_ids))
        deterministic = sample_dpmpp_2m if sampler == "dpmpp_2m" else sample_ddim
        return by_flow(deterministic(denoise, path, x, condition))

    def _guided(
        self,
        velocity: Velocity,
        h: Tensor,
        m: Tensor,
        to: Sequence[str],
        clean: dict[str, Tensor],
        guidance: float,
    ) -> tuple[Velocity, Any]:
        """The velocity that is followed, and its condition."""
        asked = Condition(self.told(h, m, to), clean)
        if guidance == 1 or not (m.any() or clean):
            return velocity, asked
        null = torch.ones(len(h), dtype=torch.bool, device=h.device)
        nothing = Condition(self.told(h, m, to, null), {})
        if guidance == 0:
            return velocity, nothing
        return guided(velocity, guidance), (asked, nothing)

    def _check(
        self, to: Sequence[str], known: Mapping[str, Tensor], steps: int, sampler: str, h: Tensor
    ) -> None:
        if not to:
            raise Refusal(f"to is empty, expected at least one of {', '.join(self.flows)}")
        seen: set[str] = set()
        for name in (*to, *known):
            self.flow(name)
            if name in seen:
                raise Refusal(f"{name!r} is asked for twice, or known as well, expected once")
            seen.add(name)
        if steps < 1:
            raise Refusal(f"steps is {steps}, expected at least 1")
        if sampler not in self.process.samplers:
            raise Refusal(unknown("sampler", sampler, self.process.samplers))
        for name, z in known.items():
            expected = (len(h), *self.flow(name).shape)
            if tuple(z.shape) != expected:
                raise ValueError(f"known {name!r} is {list(z.shape)}, expected {list(expected)}")


def stream(key: Tensor, name: str) -> Tensor:
    """The key of one modality's noise: the high half of the seed is told its name."""
    high = (zlib.crc32(name.encode()) >> 1) << 32
    return torch.stack([key[0] ^ high, key[1]])
