"""The sizes of a model, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustmdiff.refusal import Refusal


@dataclass(frozen=True)
class ModelConfig:
    """Sizes shared by RobustMDiff and every baseline, and those of the latent diffusion.

    d_h            width of H_i, of every token and of the latent Z
    layers, heads  of the image and the text encoder
    patch          side of an image patch, pixels
    vocabulary     entries of the tokenizer (for training: at most that many are learned, 0 leaves it to
                   the texts); 0 where the task has no text
    max_tokens     longest text
    fusion_layers  layers of cross-modal attention before the integration
    rank           of the mask-adaptive term of W_i(m)
    dropout        in encoders and fusion, of hidden units (attention weights are never dropped)
    width, depth   of the denoiser
    T              diffusion steps of the forward process
    beta_schedule  "cosine" (Nichol and Dhariwal 2021), "linear" (Ho et al. 2020) or "scaled_linear"
                   (Rombach et al. 2022)
    steps          sampling steps out of T
    draws          S, posterior samples that a prediction averages
    teacher_decay  of the EMA teacher that makes the complete-view target
    """

    d_h: int = 64
    layers: int = 2
    heads: int = 4
    patch: int = 16
    vocabulary: int = 0
    max_tokens: int = 128
    fusion_layers: int = 1
    rank: int = 8
    dropout: float = 0.1
    width: int = 128
    depth: int = 3
    T: int = 1000
    beta_schedule: str = "cosine"
    steps: int = 8
    draws: int = 16
    teacher_decay: float = 0.99

    def __post_init__(self) -> None:
        for name in ("d_h", "layers", "heads", "patch", "max_tokens", "rank", "width", "depth", "T", "steps"):
            if getattr(self, name) < 1:
                raise Refusal(f"ModelConfig: {name} is {getattr(self, name)}, expected at least 1")
        if self.d_h % self.heads:
            raise Refusal(f"ModelConfig: d_h is {self.d_h}, expected a multiple of heads = {self.heads}")
        if self.draws < 2:
            raise Refusal(f"ModelConfig: draws is {self.draws}, expected at least 2 (16 or more to report)")
        if self.steps > self.T:
            raise Refusal(f"ModelConfig: steps is {self.steps}, expected at most T = {self.T}")
        if self.beta_schedule not in ("cosine", "linear", "scaled_linear"):
            raise Refusal(
                f"ModelConfig: beta_schedule is {self.beta_schedule!r}, "
                "expected 'cosine', 'linear' or 'scaled_linear'"
            )
        for name in ("dropout", "teacher_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise Refusal(f"ModelConfig: {name} is {getattr(self, name)}, expected a number in [0, 1)")


RETIRED = {"start": "noise"}  # settings that configurations once had, and the one value that is left


def without_retired(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a `ModelConfig` as an earlier version may have saved them."""
    for name, left in RETIRED.items():
        if config.get(name, left) != left:
            raise Refusal(f"ModelConfig: {name} is {config[name]!r}, which is no longer there; train anew")
    return {name: value for name, value in config.items() if name not in RETIRED}
