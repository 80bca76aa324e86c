from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from robustmdiff import _native
from robustmdiff.ops.ddpm import ddpm_table
from robustmdiff.ops.triton_support import INTERPRETED


@dataclass
class Schedule:
    """As much of a scheduler as ddpm_table reads."""

    steps: int = 10
    variance_type: str = "fixed_small"
    config: Any = field(init=False)

    def __post_init__(self) -> None:
        self.config = self
        betas = torch.linspace(1e-4, 0.02, 1000)
        self.alphas_cumprod = torch.cumprod(1 - betas, 0)
        self.timesteps = torch.arange(0, 1000, 1000 // self.steps).flip(0)


@pytest.fixture(scope="session")
def table() -> Tensor:
    return ddpm_table(Schedule())


@pytest.fixture(params=["triton"] if INTERPRETED else ["native", "torch"])
def engine(request) -> str:
    """Triton alone in its interpreter (tests/kernels starts that), every other backend elsewhere."""
    if request.param == "native":
        assert _native.reason is None, _native.reason
    return request.param
