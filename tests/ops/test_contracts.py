"""The contracts that every backend of every attention op keeps. A new backend adds itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from robustmdiff import use_backend
from robustmdiff.testing import DEVICE, Case, backends_under_test, contracts
from robustmdiff.testing.backends import STANDS_ON_TORCH
from robustmdiff.testing.contracts import as_exact_as_plain, grad_like, gradients


@pytest.mark.parametrize("dtype", contracts.DTYPES, ids=str)
def test_output_and_gradients_are_as_exact_as_plain_torch(case, backend, dtype):
    contracts.output_and_gradients_are_as_exact_as_plain_torch(case, backend, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_are_float32_whatever_the_input(case, backend, dtype):
    contracts.sums_are_float32_whatever_the_input(case, backend, dtype)


def test_rows_with_nothing_to_read_give_zero_and_no_gradient(case, backend):
    contracts.rows_with_nothing_to_read_give_zero_and_no_gradient(case, backend)


def test_absent_memory_is_never_read(case, backend):
    contracts.absent_memory_is_never_read(case, backend)


def test_the_number_of_threads_does_not_matter(case, backend):
    contracts.the_number_of_threads_does_not_matter(case, backend)


def test_strides_do_not_matter(case, backend):
    contracts.strides_do_not_matter(case, backend)


def of_operators(case: Case) -> None:
    """Skip an op whose gradient is that of plain torch, so that it has no operators of its own."""
    if not hasattr(torch.ops.robustmdiff, f"{case.op}_fwd"):
        pytest.skip(f"{case.op} has no operators of its own")


def test_differentiating_twice_raises(case):
    of_operators(case)
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


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_gives_each_its_own_answer_and_gradient(case):
    tensors, g = case.at(torch.float64), grad_like(case, torch.float64)
    two = {name: torch.stack([x.detach(), x.detach().flip(0)]) for name, x in tensors.items()}

    def loss(tensors):
        return (case.run(**tensors) * g).sum()

    with use_backend(**{case.op: "torch"}):
        found = torch.func.vmap(lambda tensors: case.run(**tensors))(two)
        found_grads = torch.func.vmap(torch.func.grad(loss))(two)
        for i in range(2):
            one = {name: x[i].clone().requires_grad_() for name, x in two.items()}
            out, grads = gradients(case.run, one, g)
            torch.testing.assert_close(found[i], out, rtol=1e-12, atol=1e-12)
            for name, expected in grads.items():
                torch.testing.assert_close(found_grads[name][i], expected, rtol=1e-12, atol=1e-12)


def test_torch_func_differentiates_once(case):
    of_operators(case)
    tensors, g = case.at(torch.float64), grad_like(case, torch.float64)
    if not tensors["q"].numel():
        return

    def loss(tensors):
        return (case.run(**tensors) * g).sum()

    with use_backend(**{case.op: "torch"}), pytest.raises(RuntimeError, match="differentiated twice"):
        torch.func.grad(lambda t: torch.func.grad(loss)(t)["q"].sum())(tree_map(torch.Tensor.detach, tensors))


@pytest.mark.parametrize("compiled_backend", ["native", "torch"])
def test_compiles_whole_with_dynamic_shapes(case, compiled_backend):
    """Dimensions of 0 and 1 among them; the cases left out differ in values only. The backends of an op share
    what tells a graph their shapes, so that one or two cases of torch's show that it is there."""
    if case.name in ("everything-present", "packed-out-of-order", "left-padded", "exclude-own", "prior"):
        return
    if compiled_backend == "torch" and case.name not in ("some-absent", "affinity-exclude-own", "relations"):
        return
    if compiled_backend not in backends_under_test(case.op):
        pytest.skip(f"{case.op} has no {compiled_backend} backend")
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
    of_operators(case)

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
