"""How to align."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.training.config import LoopConfig


class AlignConfig(LoopConfig):
    """How to align encoders along a chain of links; `model` holds their sizes. Numbers of epochs, of steps
    and of patients are those of one link."""

    free: ClassVar[tuple[str, ...]] = (*LoopConfig.free, "cache_gb")

    learning_rate: float = Field(2e-3, gt=0, description="highest, after the warm-up; falls as a cosine")
    model: EncoderConfig = EncoderConfig()
    d: int = Field(64, ge=1, description="width of the shared space")
    lambda_vi: float = Field(0.0, ge=0, description="of the visual invariant; 0: none, and half the time")
    diag_weight: float = Field(1.0, ge=0, description="of its diagonal; 0: the literal reading of MedM2G")
    first: int = Field(
        3, ge=1, description="times as many epochs for the first link, which all others inherit"
    )
    accumulate: Literal[1] = Field(1, description="a batch is one contrast, which parts of it are not")
    cache_gb: float = Field(1.0, ge=0, description="patients are packed once if they fit into this memory")
