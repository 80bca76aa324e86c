"""What the backends that are not torch's operators, one after the other, all decline."""

from __future__ import annotations

import torch
from torch.compiler import is_compiling

from robustmdiff.ops.chain.arguments import Arguments


def only_as_it_is(a: Arguments) -> list[str]:
    """Why the operators have to be called one by one."""
    found = []
    if is_compiling():
        found.append("a graph is traced, and the definition is made of what every runtime knows")
    if torch._C._are_functorch_transforms_active():
        found.append("torch.func transforms it, which only torch takes")
    if torch.is_grad_enabled():
        tensors = {"x": a.x, "told": a.told, "time": a.time}
        needed = [name for name, x in tensors.items() if x.requires_grad]
        if any(x.requires_grad for layer in a.weights.layers() for x in layer):
            needed.append("weights")
        found += [f"{name} needs a gradient, which only torch gives" for name in needed]
    return found
