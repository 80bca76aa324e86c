"""The contracts that every backend of every op keeps, as checks of one case on one backend.

Tolerance is measured: an error against float64 of at most twice that of plain torch in the same dtype,
three times for gradients. A check raises AssertionError.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustmdiff.ops.dispatch import BackendError, use_backend
from robustmdiff.testing.backends import STANDS_ON_TORCH
from robustmdiff.testing.case import DEVICE, Case

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_contracts(case: Case, backend: str) -> None:
    """All of them."""
    for dtype in DTYPES:
        output_and_gradients_are_as_exact_as_plain_torch(case, backend, dtype)
    for dtype in (torch.bfloat16, torch.float16):
        sums_are_float32_whatever_the_input(case, backend, dtype)
    rows_with_nothing_to_read_give_zero_and_no_gradient(case, backend)
    absent_memory_is_never_read(case, backend)
    the_number_of_threads_does_not_matter(case, backend)
    strides_do_not_matter(case, backend)


def gradients(
    run: Callable[..., Tensor], tensors: dict[str, Tensor], grad_out: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    out = run(**tensors)
    found = torch.autograd.grad(out, list(tensors.values()), grad_out)
    return out.detach(), dict(zip(tensors, found, strict=True))


def grad_like(case: Case, dtype: torch.dtype) -> Tensor:
    shape = next(iter(case.tensors.values())).shape
    g = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return g.to(DEVICE, dtype)


def largest(*tensors: Tensor) -> float:
    return max((float(x.detach().abs().max()) for x in tensors if x.numel()), default=0.0)


def error(x: Tensor, exact: Tensor) -> float:
    return largest(x.double() - exact)


def within(name: str, ours: Tensor, plain: Tensor, exact: Tensor, factor: int, terms: float) -> None:
    """As exact as plain torch, to a factor; plus one rounding of the largest term that was summed, as
    plain torch may be exact by luck."""
    budget = factor * (error(plain, exact) + torch.finfo(plain.dtype).eps * terms)
    assert ours.dtype == plain.dtype, name
    assert torch.isfinite(ours).all(), name
    assert error(ours, exact) <= budget, f"{name}: {error(ours, exact):.1e} > {budget:.1e}"


def as_exact_as_plain(
    case: Case, tensors: dict[str, Tensor], g: Tensor, ours: Tensor, our_grads: dict[str, Tensor]
) -> None:
    """Both against float64, on the same rounded inputs."""
    rounded = {name: x.detach().double().requires_grad_() for name, x in tensors.items()}
    exact, exact_grads = gradients(case.plain, rounded, g.double())
    plain, plain_grads = gradients(case.plain, tensors, g)
    within("out", ours, plain, exact, 2, largest(*tensors.values()))
    terms = largest(*tensors.values()) * largest(g)
    for name in tensors:
        within(f"d{name}", our_grads[name], plain_grads[name], exact_grads[name], 3, terms)


def output_and_gradients_are_as_exact_as_plain_torch(case: Case, backend: str, dtype: torch.dtype) -> None:
    """Kernels compute in float32, and decline float64 in words."""
    tensors, g = case.at(dtype), grad_like(case, dtype)
    with use_backend(**{case.op: backend}):
        if dtype != torch.float64 or backend in STANDS_ON_TORCH:
            as_exact_as_plain(case, tensors, g, *gradients(case.run, tensors, g))
            return
        declined = ""
        try:
            case.run(**tensors)
        except BackendError as error:
            declined = str(error)
        assert "float64" in declined, f"{backend} takes float64, which kernels do not"


def sums_are_float32_whatever_the_input(case: Case, backend: str, dtype: torch.dtype) -> None:
    tensors = case.at(dtype)
    exact = case.plain(**{name: x.detach().double() for name, x in tensors.items()})
    with use_backend(**{case.op: backend}):
        ours = case.run(**tensors).detach()
    # one rounding of the result, and nothing else of that size
    budget = 0.51 * torch.finfo(dtype).eps * exact.abs() + 1e-5
    if DEVICE == "cuda" and backend != "torch" and case.op != "graph_attention":
        # tensor cores take the softmax weights in 16 bits too, each weight rounded once
        budget += 0.51 * torch.finfo(dtype).eps * largest(*tensors.values())
    assert ((ours.double() - exact).abs() <= budget).all()


def rows_with_nothing_to_read_give_zero_and_no_gradient(case: Case, backend: str) -> None:
    tensors = case.at(torch.float32)
    with use_backend(**{case.op: backend}):
        out, grads = gradients(case.run, tensors, grad_like(case, torch.float32))
    assert (out[case.silent] == 0).all()
    for name, rows in case.absent.items():
        if name in grads:
            assert (grads[name][rows] == 0).all(), name
    if case.silent.all():
        assert all((g == 0).all() for g in grads.values())


def absent_memory_is_never_read(case: Case, backend: str) -> None:
    """Bit for bit: what is absent may be NaN, in the inputs and in the gradient that comes in."""
    g = grad_like(case, torch.float32)
    clean = case.at(torch.float32)
    poisoned = {name: x.detach().clone() for name, x in clean.items()}
    for name, rows in case.absent.items():
        if name in poisoned and name != "log_prior":  # -inf there is what says that a concept is absent
            poisoned[name][rows] = torch.nan
    poisoned = {name: x.requires_grad_() for name, x in poisoned.items()}
    bad_g = g.clone()
    bad_g[case.silent] = torch.nan
    with use_backend(**{case.op: backend}):
        out, grads = gradients(case.run, clean, g)
        bad_out, bad_grads = gradients(case.run, poisoned, bad_g)
    assert torch.equal(out, bad_out)
    for name in grads:
        assert torch.equal(grads[name], bad_grads[name]), name


def the_number_of_threads_does_not_matter(case: Case, backend: str) -> None:
    """Bit for bit in our own kernels; torch and the libraries below it promise exactness alone."""
    tensors, g = case.at(torch.float32), grad_like(case, torch.float32)
    threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 1):
            torch.set_num_threads(n)
            with use_backend(**{case.op: backend}):
                found.append(gradients(case.run, tensors, g))
    finally:
        torch.set_num_threads(threads)
    (first, first_grads), *others = found
    for out, grads in others:
        if backend in STANDS_ON_TORCH:
            as_exact_as_plain(case, tensors, g, out, grads)
        else:
            assert torch.equal(out, first)
            assert all(torch.equal(grads[name], first_grads[name]) for name in grads)


def strides_do_not_matter(case: Case, backend: str) -> None:
    """Heads before tokens in memory, and a gradient of stride 0."""
    tensors, g = (
        case.at(torch.float32),
        torch.ones((), device=DEVICE).expand(grad_like(case, torch.float32).shape),
    )
    turned = {
        name: x.detach().mT.contiguous().mT if x.ndim > 1 else x.detach() for name, x in tensors.items()
    }
    turned = {name: x.requires_grad_() for name, x in turned.items()}
    with use_backend(**{case.op: backend}):
        out, grads = gradients(case.run, tensors, g.contiguous())
        same, same_grads = gradients(case.run, turned, g)
    torch.testing.assert_close(out, same)
    for name in grads:
        torch.testing.assert_close(grads[name], same_grads[name], msg=name)
