"""The sizes of a model, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from robustmdiff.refusal import Refusal


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoders.

    d_h            width of H_i and of every token
    layers, heads  of the image and the text encoder
    patch          side of an image patch, pixels
    vocabulary     entries of the tokenizer (for training: at most that many are learned, 0 leaves it to
                   the texts); 0 where the task has no text
    max_tokens     longest text
    dropout        of hidden units (attention weights are never dropped)
    """

    d_h: int = 64
    layers: int = 2
    heads: int = 4
    patch: int = 16
    vocabulary: int = 0
    max_tokens: int = 128
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self._at_least_1("d_h", "layers", "heads", "patch", "max_tokens")
        self._shares("dropout")
        if self.d_h % self.heads:
            self._refuse("d_h", f"a multiple of heads = {self.heads}")

    def _at_least_1(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                self._refuse(name, "at least 1")

    def _shares(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                self._refuse(name, "a number in [0, 1)")

    def _refuse(self, name: str, expected: str) -> NoReturn:
        value = getattr(self, name)
        raise Refusal(f"{type(self).__name__}: {name} is {value!r}, expected {expected}")


@dataclass(frozen=True)
class ModelConfig(EncoderConfig):
    """Sizes shared by RobustMDiff and every baseline: those of the encoders, of what joins them (d_h is the
    width of the latent Z as well, heads and dropout are there, too), and of the latent diffusion.

    fusion_layers  layers of cross-modal attention before the integration
    class_evidence whether each modality is read for the classes themselves where no finding is labelled
    rank           of the mask-adaptive term of W_i(m)
    width, depth   of the denoiser
    T              diffusion steps of the forward process
    beta_schedule  "cosine" (Nichol and Dhariwal 2021), "linear" (Ho et al. 2020) or "scaled_linear"
                   (Rombach et al. 2022)
    steps          sampling steps out of T
    draws          S, posterior samples that a prediction averages
    teacher_decay  of the EMA teacher that makes the complete-view target
    """

    fusion_layers: int = 1
    class_evidence: bool = False
    rank: int = 8
    width: int = 128
    depth: int = 3
    T: int = 1000
    beta_schedule: str = "cosine"
    steps: int = 8
    draws: int = 16
    teacher_decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_1("rank", "width", "depth", "T", "steps")
        self._shares("teacher_decay")
        if self.draws < 2:
            self._refuse("draws", "at least 2 (16 or more to report)")
        if self.steps > self.T:
            self._refuse("steps", f"at most T = {self.T}")
        if self.beta_schedule not in ("cosine", "linear", "scaled_linear"):
            self._refuse("beta_schedule", "'cosine', 'linear' or 'scaled_linear'")

    @property
    def of_encoders(self) -> EncoderConfig:
        """The sizes of the encoders alone."""
        return EncoderConfig(**{field.name: getattr(self, field.name) for field in fields(EncoderConfig)})


RETIRED = {"start": "noise"}  # settings that configurations once had, and the one value that is left


def without_retired(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a `ModelConfig` as an earlier version may have saved them."""
    for name, left in RETIRED.items():
        if config.get(name, left) != left:
            raise Refusal(f"ModelConfig: {name} is {config[name]!r}, which is no longer there; train anew")
    return {name: value for name, value in config.items() if name not in RETIRED}
