"""What time means to a flow: how noisy a latent is at t, what its network says there, and how one samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

from torch import Tensor

from robustmdiff.diffusion.schedule import Level, Path, Schedule, StraightPath
from robustmdiff.refusal import Refusal

T = 1000  # timesteps of the cosine schedule


class Process(Protocol):
    """samplers  that know it, the default first"""

    name: ClassVar[str]
    samplers: ClassVar[tuple[str, ...]]

    def level(self, t: Tensor) -> Level:
        """Of times t in [0, 1]: 1 is noise alone."""

    def time(self, level: Level) -> Tensor:
        """The inverse, of levels of the path as well: what a network is told."""

    def wanted(self, x_0: Tensor, eps: Tensor, level: Level) -> Tensor:
        """What the network is to say of x_t = a x_0 + s eps."""

    def x_0(self, x: Tensor, said: Tensor, level: Level) -> Tensor:
        """What it has said of x_t, solved for x_0."""

    def path(self, steps: int) -> Path:
        """Where a sampler stops."""


@dataclass(frozen=True)
class Straight:
    """Rectified flow (Liu et al. 2023): x_t = (1 - t) x_0 + t eps, and its velocity eps - x_0."""

    name: ClassVar[str] = "straight"
    samplers: ClassVar[tuple[str, ...]] = ("euler", "heun")

    def level(self, t: Tensor) -> Level:
        return Level(t, 1 - t, t)

    def time(self, level: Level) -> Tensor:
        return level.t

    def wanted(self, x_0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return eps - x_0

    def x_0(self, x: Tensor, said: Tensor, level: Level) -> Tensor:
        return x - level.s * said

    def path(self, steps: int) -> Path:
        return StraightPath(steps)


@dataclass(frozen=True)
class Cosine:
    """The published form: a diffusion of 1,000 steps (Ho et al. 2020) on the cosine schedule (Nichol and
    Dhariwal 2021), whose network says v = a eps - s x_0 (Salimans and Ho 2022)."""

    name: ClassVar[str] = "cosine"
    samplers: ClassVar[tuple[str, ...]] = ("ddim", "ddpm", "dpmpp_2m")

    @cached_property
    def schedule(self) -> Schedule:
        return Schedule(T, "cosine", T)

    def level(self, t: Tensor) -> Level:
        return self.schedule.at((t * (T - 1)).round().long())

    def time(self, level: Level) -> Tensor:
        return level.t / (T - 1)

    def wanted(self, x_0: Tensor, eps: Tensor, level: Level) -> Tensor:
        return level.a * eps - level.s * x_0

    def x_0(self, x: Tensor, said: Tensor, level: Level) -> Tensor:
        return level.a * x - level.s * said

    def path(self, steps: int) -> Schedule:
        if steps > T:
            raise Refusal(f"steps is {steps}, expected at most {T}, those of the schedule")
        return Schedule(T, "cosine", steps)


PROCESSES: dict[str, Process] = {process.name: process for process in (Straight(), Cosine())}
