"""Every backend that one of our ops has, as a candidate of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from benchmarks.candidates import Candidate, Workload
from robustmdiff import use_backend
from robustmdiff.ops.dispatch import Op


def backends(
    op: str,
    call: Callable[[Workload], Callable[..., Tensor]],
    prepare: dict[str, Callable[[Workload], Any]],
    forward_only: dict[str, str] | None = None,
) -> dict[str, Callable[[Workload], Candidate]]:
    """{"ours, <backend>": maker}, for all backends but the definition, which is no kernel.

    call(workload) is the op on tensors; prepare by backend is what that backend does with the batch's
    structure alone; forward_only by backend why its gradients are not timed.
    """

    def maker(backend: str) -> Callable[[Workload], Candidate]:
        def make(workload: Workload) -> Candidate:
            run = call(workload)

            def on_backend(prepared: Any, **tensors: Tensor) -> Tensor:
                with use_backend(**{op: backend}):
                    return run(**tensors)

            before = prepare[backend](workload) if backend in prepare else None
            left_out = (forward_only or {}).get(backend, "")
            return Candidate(f"ours, {backend}", on_backend, before, ours=True, forward_only=left_out)

        return make

    names = [backend.name for backend in Op.registry[op].backends if backend.name != "definition"]
    return {f"ours, {name}": maker(name) for name in names}
