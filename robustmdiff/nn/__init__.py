"""Layers made of the ops, to be put into other people's models.

FusedDDPMScheduler and FusedDDIMScheduler are imported from here too, where diffusers is installed.
"""

from typing import TYPE_CHECKING, Any

from robustmdiff.nn.diffusers_attention import MaskedAttnProcessor
from robustmdiff.nn.graph_attention import GraphAttention
from robustmdiff.nn.knowledge_attention import KnowledgeAttention
from robustmdiff.nn.masked_attention import MaskedCrossModalAttention, Memory
from robustmdiff.nn.transformers import register_with_transformers

if TYPE_CHECKING:
    from robustmdiff.nn.diffusers_scheduler import FusedDDIMScheduler as FusedDDIMScheduler
    from robustmdiff.nn.diffusers_scheduler import FusedDDPMScheduler as FusedDDPMScheduler

__all__ = [
    "GraphAttention",
    "KnowledgeAttention",
    "MaskedAttnProcessor",
    "MaskedCrossModalAttention",
    "Memory",
    "register_with_transformers",
]


def __getattr__(name: str) -> Any:
    """The schedulers derive from diffusers' own: it is imported when one of them is asked for."""
    if name not in ("FusedDDIMScheduler", "FusedDDPMScheduler"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from robustmdiff.nn import diffusers_scheduler
    except ModuleNotFoundError as error:
        if error.name != "diffusers":
            raise
        raise ModuleNotFoundError(
            f"{name} needs diffusers: pip install 'robustmdiff[diffusers]'", name="diffusers"
        ) from error
    return getattr(diffusers_scheduler, name)
