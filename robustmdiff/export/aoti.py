"""AOTInductor: the graph as a package of machine code, for processes that have libtorch and no Python.

Our ops become torch's own operators, so that such a process needs nothing of ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustmdiff.export.operators import exported_operators
from robustmdiff.export.program import Traced
from robustmdiff.ops.registration import NOTHING, lse_dtype
from robustmdiff.refusal import Refusal
from robustmdiff.whole import write_whole

NEVER = -60000.0  # a score of what is absent: exp of it is 0, and it is finite in float16


def build_package(traced: Traced, path: Path, classes: Sequence[str]) -> dict[str, Any]:
    """Write the package, for the CPU that is here, and say what built it. Its metadata name inputs, outputs
    and classes in their order, a line each. Raises Refusal where there is no C++ compiler."""
    from torch._inductor import aoti_compile_and_package  # imports a compiler: seconds
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise Refusal("export to aoti needs a C++ compiler, expected g++ or what CXX names") from error
    names = {"inputs": traced.inputs, "outputs": traced.outputs, "classes": classes}
    metadata = {name: "\n".join(each) for name, each in names.items()}
    content = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its trees
        program = traced.program.run_decompositions(decompositions())
        aoti_compile_and_package(
            program, package_path=content, inductor_configs={"aot_inductor.metadata": metadata}
        )
    write_whole(path, content.getvalue())
    return {
        "engine": "aoti",
        "package": "torch",
        "version": torch.__version__,
        "capabilities": [torch.backends.cpu.get_cpu_capability()],
        "bytes": path.stat().st_size,
    }


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The operators of ours that a graph may hold -> the same in torch's own."""
    return exported_operators(masked_attention, knowledge_attention)


def masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_segments: Tensor,
    k_segments: Tensor,
    affinity: Tensor | None,
    key: Tensor | None,
    scale: float,
    exclude_own: bool,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    """The op on padded patients viewed flat: B patients have Tq / B rows of queries and Tk / B of keys each,
    and their segments lie within these."""
    if affinity is not None or exclude_own or dropout_p:
        raise ValueError("masked_attention: affinity, exclude_own and dropout_p are not exported")
    B = k_segments.shape[0]
    asks, asked = _within(q, q_segments), _within(k, k_segments)
    q, k, v = (x.view(B, x.shape[0] // B, *x.shape[1:]) for x in (q, k, v))  # [B, L, H, D]
    v = torch.where(asked[..., None, None], v, 0)
    product = torch.matmul(q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1))  # [B, H, Lq, Lk]
    seen = torch.where(asked[:, None, None], product.to(lse_dtype(q.dtype)) * scale, NEVER)
    read = torch.matmul(seen.softmax(-1).to(v.dtype), v.transpose(1, 2)).transpose(1, 2)
    answered = asks & asked.any(1, keepdim=True)
    out = torch.where(answered[..., None, None], read, 0)
    lse = torch.where(answered[..., None], seen.logsumexp(-1).transpose(1, 2), NOTHING)
    return out.flatten(0, 1), lse.flatten(0, 1)


def knowledge_attention(
    q: Tensor, concepts: Tensor, log_prior: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    prior = log_prior.to(lse_dtype(q.dtype))
    there = prior > NEVER
    K = torch.where(there[:, None], concepts, 0)
    seen = torch.where(there, (q @ K.T).to(prior.dtype) * scale + prior, NEVER)
    out = torch.where(there.any(), seen.softmax(-1).to(K.dtype) @ K, 0)
    return out, torch.where(there.any(), seen.logsumexp(-1), NOTHING)


def _within(rows: Tensor, segments: Tensor) -> Tensor:
    """bool [B, L]: which of each patient's rows lie in one of its segments [B, M, 2]."""
    B = segments.shape[0]
    L = rows.shape[0] // B
    start, length = segments.long().unbind(-1)
    begin = (start - L * torch.arange(B, device=rows.device)[:, None])[..., None]  # [B, M, 1]
    row = torch.arange(L, device=rows.device)
    return ((row >= begin) & (row < begin + length[..., None])).any(1)
