"""The operators of ours that an exported graph may hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

OPERATORS = {  # those that backends have of an op, which plain torch need not have
    "masked_attention": ("masked_attention_fwd", "masked_attention_fwd_torch"),
    "knowledge_attention": ("knowledge_attention_fwd", "knowledge_attention_fwd_torch"),
}


def exported_operators(*translations: Callable[..., Any]) -> dict[Any, Callable[..., Any]]:
    """From the operators of ops to what the ops become; a translation has the name of its op."""
    of = {
        getattr(torch.ops.robustmdiff, name).default: op for op, names in OPERATORS.items() for name in names
    }
    become = {each.__name__: each for each in translations}
    return {operator: become[op] for operator, op in of.items()}
