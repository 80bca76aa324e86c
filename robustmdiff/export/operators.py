"""The operators of ours that an exported graph may hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from robustmdiff.ops.ddpm.arguments import PREDICTIONS, Step

OPERATORS = {  # those that backends have of an op, which plain torch need not have
    "masked_attention": ("masked_attention_fwd", "masked_attention_fwd_torch"),
    "knowledge_attention": ("knowledge_attention_fwd", "knowledge_attention_fwd_torch"),
    "ddpm_step": ("ddpm_step",),
}


def exported_operators(*translations: Callable[..., Any]) -> dict[Any, Callable[..., Any]]:
    """From the operators of ops to what the ops become; a translation has the name of its op."""
    of = {
        getattr(torch.ops.robustmdiff, name).default: op for op, names in OPERATORS.items() for name in names
    }
    become = {each.__name__: each for each in translations}
    return {operator: become[op] for operator, op in of.items()}


def exported_step(arguments: Sequence[Any]) -> tuple[Step, Tensor]:
    """What the operator of `ddpm_step` was called with, and its noise. Raises ValueError for a step that an
    exported graph does not have."""
    a = Step._make([*arguments, None])
    plain = a.uncond is None and a.guidances is None and a.clip == math.inf and a.exact
    if not plain or a.noise is None or PREDICTIONS[a.prediction] != "sample":
        raise ValueError("ddpm_step: exported are steps to an estimate of x_0, of given noise and variance")
    return a, a.noise
