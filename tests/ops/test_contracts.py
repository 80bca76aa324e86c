"""The contracts that every backend of every attention op keeps. A new backend adds itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from robustmdiff import use_backend
from robustmdiff.ops.dispatch import BackendError
from tests.ops.cases import DEVICE, Case

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
STANDS_ON_TORCH = ("torch", "definition")


def gradients(run, tensors: dict[str, Tensor], grad_out: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    out = run(**tensors)
    found = torch.autograd.grad(out, list(tensors.values()), grad_out)
    return out.detach(), dict(zip(tensors, found, strict=True))


def grad_like(case, dtype: torch.dtype) -> Tensor:
    shape = case.tensors["q"].shape
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_output_and_gradients_are_as_exact_as_plain_torch(case, backend, dtype):
    tensors, g = case.at(dtype), grad_like(case, dtype)
    if dtype == torch.float64 and backend not in STANDS_ON_TORCH:  # kernels compute in float32
        with use_backend(**{case.op: backend}), pytest.raises(BackendError, match="float64"):
            case.run(**tensors)
        return
    with use_backend(**{case.op: backend}):
        as_exact_as_plain(case, tensors, g, *gradients(case.run, tensors, g))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_are_float32_whatever_the_input(case, backend, dtype):
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


def test_rows_with_nothing_to_read_give_zero_and_no_gradient(case, backend):
    tensors = case.at(torch.float32)
    with use_backend(**{case.op: backend}):
        out, grads = gradients(case.run, tensors, grad_like(case, torch.float32))
    assert (out[case.silent] == 0).all()
    for name, rows in case.absent.items():
        if name in grads:
            assert (grads[name][rows] == 0).all(), name
    if case.silent.all():
        assert all((g == 0).all() for g in grads.values())


def test_absent_memory_is_never_read(case, backend):
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


def test_the_number_of_threads_does_not_matter(case, backend):
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


def test_strides_do_not_matter(case, backend):
    """Heads before tokens in memory, and a gradient of stride 0."""
    tensors, g = case.at(torch.float32), torch.ones((), device=DEVICE).expand(case.tensors["q"].shape)
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


def test_differentiating_twice_raises(case):
    tensors = case.at(torch.float64)
    if not tensors["q"].numel():
        return
    for incoming in (False, True):
        with use_backend(**{case.op: "torch"}):
            g = grad_like(case, torch.float64).requires_grad_(incoming)
            once = torch.autograd.grad(case.run(**tensors), list(tensors.values()), g, create_graph=True)
            with pytest.raises(RuntimeError, match="differentiated twice"):
                sum(x.square().sum() for x in once).backward()


def test_torch_func_gives_the_same_gradient(case):
    tensors, g = case.at(torch.float64), grad_like(case, torch.float64)

    def loss(tensors):
        return (case.run(**tensors) * g).sum()

    with use_backend(**{case.op: "torch"}):
        _, expected = gradients(case.run, tensors, g)
        found = torch.func.grad(loss)({name: x.detach() for name, x in tensors.items()})
        for name in tensors:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)
        if tensors["q"].numel():
            with pytest.raises(RuntimeError, match="differentiated twice"):
                torch.func.grad(lambda t: torch.func.grad(loss)(t)["q"].sum())(
                    tree_map(torch.Tensor.detach, tensors)
                )


@pytest.mark.parametrize("compiled_backend", ["native", "torch"])
def test_compiles_whole_with_dynamic_shapes(case, compiled_backend):
    """Dimensions of 0 and 1 among them; the cases left out differ in values only."""
    if case.name in ("everything-present", "packed-out-of-order", "left-padded", "exclude-own", "prior"):
        return
    torch.compiler.reset()
    compiled = torch.compile(case.run, fullgraph=True, dynamic=True, backend="aot_eager")
    tensors, g = case.at(torch.float32), grad_like(case, torch.float32)
    with use_backend(**{case.op: compiled_backend}):
        out, grads = gradients(case.run, tensors, g)
        same, same_grads = gradients(compiled, tensors, g)
    if compiled_backend in STANDS_ON_TORCH:
        as_exact_as_plain(case, tensors, g, same, same_grads)
        return
    assert torch.equal(out, same)
    for name in tensors:
        assert torch.equal(grads[name], same_grads[name]), name


def test_exports(case):
    class Module(torch.nn.Module):
        def forward(self, tensors: dict[str, Tensor]) -> Tensor:
            return case.run(**tensors)

    tensors = {name: x.detach() for name, x in case.at(torch.float32).items()}
    program = torch.export.export(Module(), (tensors,))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any(name.startswith(f"robustmdiff.{case.op}_fwd") for name in names)
    assert torch.equal(program.module()(tensors), case.run(**tensors))


def test_autocast_casts_the_inputs_and_nothing_inside(case):
    tensors = {name: x.detach() for name, x in case.at(torch.float32).items()}
    low = {
        name: x if name in ("affinity", "log_prior", "relation_bias") else x.bfloat16()
        for name, x in tensors.items()
    }
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        found = case.run(**tensors)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, case.run(**low))
