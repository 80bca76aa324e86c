"""Where torch's products are faster than the native kernel: the choice, and what stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustmdiff import explain, use_backend
from robustmdiff.ops import knowledge_attention
from robustmdiff.ops.knowledge_attention.dense import ROWS, WEIGHTS, WIDTH
from robustmdiff.testing import contracts, draw
from robustmdiff.testing.cases.knowledge_attention import knowledge_case


def inputs(N: int, H: int, d: int, k: int) -> tuple[Tensor, Tensor]:
    return draw(N, H, d, seed=1).float(), draw(k, d, seed=2).float()


@pytest.mark.parametrize(
    ("N", "H", "d", "k", "chosen"),
    [
        (ROWS, 1, WIDTH, ROWS, "torch"),
        (ROWS // 4, 4, WIDTH, 10, "torch"),
        (ROWS - 1, 1, WIDTH, 10, "native"),
        (ROWS, 1, WIDTH, ROWS + 1, "native"),
        (ROWS, 1, WIDTH - 1, 10, "native"),
        (WEIGHTS // 1024, 1, WIDTH, 1024, "torch"),
        (WEIGHTS // 1024 + 1, 1, WIDTH, 1024, "native"),
    ],
)
def test_auto_takes_torch_for_many_wide_rows(N, H, d, k, chosen):
    q, concepts = inputs(N, H, d, k)
    assert explain("knowledge_attention", q, concepts, scale=0.1).chosen == chosen
    assert explain("knowledge_attention", q.bfloat16(), concepts.bfloat16(), scale=0.1).chosen == "native"


@pytest.mark.parametrize("absent", [None, [], [0, 4], list(range(9))], ids=str)
def test_it_keeps_the_contracts(absent):
    case = knowledge_case("many-wide-rows", ROWS // 2, 2, WIDTH, 9, absent, scale=0.1)
    contracts.output_and_gradients_are_as_exact_as_plain_torch(case, "torch", torch.float32)
    contracts.rows_with_nothing_to_read_give_zero_and_no_gradient(case, "torch")
    contracts.absent_memory_is_never_read(case, "torch")


def test_strides_do_not_matter():
    case = knowledge_case("many-wide-rows", ROWS // 2, 2, WIDTH, 9, [], scale=0.1)
    turned = {
        name: x.detach().mT.contiguous().mT.requires_grad_() if x.ndim > 1 else x
        for name, x in case.at(torch.float32).items()
    }
    g = torch.ones(()).expand(turned["q"].shape)
    with use_backend(knowledge_attention="torch"):
        contracts.as_exact_as_plain(case, turned, g, *contracts.gradients(case.run, turned, g))


def test_explain_says_why_and_the_native_kernel_is_had_by_name():
    q, concepts = inputs(ROWS, 2, WIDTH, 10)
    assert explain("knowledge_attention", q, concepts, scale=0.1).declined["native"] == [
        f"torch is faster where {2 * ROWS} rows of width {WIDTH} read 10 concepts"
    ]
    with use_backend(knowledge_attention="native"):
        assert explain("knowledge_attention", q, concepts, scale=0.1).chosen == "native"
        few = knowledge_attention(q[:3], concepts, scale=0.1)
        assert torch.equal(knowledge_attention(q, concepts, scale=0.1)[:3], few)


def test_the_backward_pass_runs_and_has_no_gradient_of_its_own():
    q, concepts = (x.requires_grad_() for x in inputs(ROWS, 1, WIDTH, 10))
    once = torch.autograd.grad(knowledge_attention(q, concepts, scale=0.1).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        once[0].square().sum().backward()


def test_what_takes_no_part_gets_no_gradient():
    q, concepts = inputs(ROWS, 1, WIDTH, 10)
    prior = torch.zeros(10, requires_grad=True)
    knowledge_attention(q, concepts, prior, scale=0.1).square().sum().backward()
    assert prior.grad is not None
    assert q.grad is concepts.grad is None
    with use_backend(knowledge_attention="definition"):
        (expected,) = torch.autograd.grad(
            knowledge_attention(q, concepts, prior, scale=0.1).square().sum(), prior
        )
    torch.testing.assert_close(prior.grad, expected, rtol=1e-4, atol=1e-4)


def test_compiled_code_and_torch_func_stay_with_the_kernel():
    q, concepts = inputs(ROWS, 1, WIDTH, 10)
    graphs = []

    def backend(graph, _):
        graphs.append(str(graph.code))
        return graph

    def run(q: Tensor) -> Tensor:
        return knowledge_attention(q, concepts, scale=0.1)

    torch.compile(run, fullgraph=True, backend=backend)(q)
    assert "knowledge_attention_fwd" in graphs[0]
    found = torch.func.vmap(run)(torch.stack([q, 2 * q]))
    torch.testing.assert_close(found, torch.stack([run(q), run(2 * q)]))
