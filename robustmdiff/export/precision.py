"""Precisions of a graph: what its linear layers multiply in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class LayersIn(TorchFunctionMode):
    """Within it linear layers multiply numbers of this dtype. Their results are float32, as is all that lies
    between them: convolutions, too, which ONNX has no bfloat16 for until opset 22. (Autocast says much the
    same, but a graph that is exported cannot hold it.)"""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not linear or self.dtype == torch.float32:
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, lambda x: x.to(self.dtype), (args, kwargs))
        return func(*args, **kwargs).float()
