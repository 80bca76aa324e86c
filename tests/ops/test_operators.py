"""What torch asks of the registered operators, and what leaves the hot path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from robustmdiff.ops import Graph, graph_attention, knowledge_attention, masked_attention, register_flops
from robustmdiff.ops.graph_attention import OP as GRAPH
from robustmdiff.ops.graph_attention import torch_backend as graph_backend
from robustmdiff.ops.knowledge_attention import OP as KNOWLEDGE
from robustmdiff.ops.knowledge_attention import TOP
from robustmdiff.ops.knowledge_attention import torch_backend as knowledge_backend
from robustmdiff.ops.masked_attention import OP as MASKED
from robustmdiff.ops.masked_attention import native as masked_native
from robustmdiff.ops.masked_attention import torch_backend as masked_backend

SEGMENTS = torch.tensor([[[0, 3], [3, 0]], [[4, 2], [6, 1]]], dtype=torch.int32)
GRAPH_OF_5 = Graph.from_edges(
    torch.tensor([0, 1, 4, 4]), torch.tensor([1, 2, 2, 0]), 5, torch.tensor([0, 1, 1, 2])
)


def masked_args() -> tuple:
    q, k, v = torch.randn(7, 6, 5), torch.randn(7, 3, 5), torch.randn(7, 3, 5)
    return MASKED.arguments(q, k, v, SEGMENTS, SEGMENTS, affinity=torch.randn(6, 2, 2))[:10]


def knowledge_args() -> tuple:
    return KNOWLEDGE.arguments(torch.randn(4, 2, 5), torch.randn(9, 5), torch.randn(9), scale=0.4)[:4]


def graph_args() -> tuple:
    return GRAPH.arguments(*torch.randn(3, 5, 2, 7), GRAPH_OF_5, relation_bias=torch.randn(2, 3))


OPERATORS = [
    pytest.param(masked_backend, masked_args, id="masked_attention"),
    pytest.param(masked_native, masked_args, id="masked_attention-native"),
    pytest.param(knowledge_backend, knowledge_args, id="knowledge_attention"),
    pytest.param(graph_backend, graph_args, id="graph_attention"),
]


@pytest.mark.parametrize(("backend", "args"), OPERATORS)
def test_operators_pass_opcheck(backend, args):
    args = args()
    torch.library.opcheck(backend.forward_op, args)
    out, lse = backend.forward_op(*args)
    torch.library.opcheck(backend.backward_op, (torch.randn_like(out), out, lse, *args))


def test_knowledge_top_passes_opcheck():
    args = TOP.arguments(torch.randn(4, 2, 5), torch.randn(9, 5), torch.randn(9), scale=0.4, n=3)
    torch.library.opcheck(knowledge_backend.top_op, args)


def test_the_backends_of_an_op_share_one_schema():
    found: dict[str, set[str]] = {}
    for name in dir(torch.ops.robustmdiff):
        for kind in ("_attention_fwd", "_attention_bwd"):
            if kind in name:
                schema = str(getattr(torch.ops.robustmdiff, name).default._schema)
                stem = name.split(kind)[0] + kind
                found.setdefault(stem, set()).add(schema[schema.index("(") :])
    assert len(found) == 6
    assert all(len(schemas) == 1 for schemas in found.values()), found


def test_flops_count_the_pairs_that_are_present():
    q, k, v = torch.randn(7, 6, 5), torch.randn(7, 3, 5), torch.randn(7, 3, 5)
    register_flops()
    with FlopCounterMode(display=False) as counter:
        masked_attention(q, k, v, SEGMENTS, SEGMENTS)
    assert counter.get_total_flops() == 4 * (3 * 3 + 3 * 3) * 6 * 5
    with FlopCounterMode(display=False) as counter:
        knowledge_attention(torch.randn(4, 2, 5), torch.randn(9, 5), scale=1.0)
    assert counter.get_total_flops() == 4 * 4 * 2 * 9 * 5
    x = torch.randn(5, 2, 7, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        graph_attention(x, x, x, GRAPH_OF_5).sum().backward()
    assert counter.get_total_flops() == (4 + 10) * 4 * 2 * 7


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for x in found if isinstance(found, tuple | list) else (found,):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.numel())
        return found


def test_knowledge_attention_holds_no_array_of_rows_times_concepts():
    N, k, d = 1500, 3000, 8
    q, concepts, prior = torch.randn(N, 1, d), torch.randn(k, d), torch.randn(k)
    with Largest() as largest:
        a = TOP.arguments(q, concepts, prior, scale=0.3, n=5)
        out, lse = knowledge_backend.forward(a)
        knowledge_backend.backward(torch.ones_like(out), out, lse, a)
        knowledge_backend.top(a)
    assert largest.elements <= knowledge_backend.BLOCK < N * k


def test_graph_attention_gathers_a_block_of_edges_at_a_time(monkeypatch):
    n, H, D = 60, 2, 4
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randint(n, (2000,), generator=generator) for _ in "st")
    graph = Graph.from_edges(source, target, n)
    a = GRAPH.arguments(*torch.randn(3, n, H, D, dtype=torch.float64), graph)
    whole, _ = graph_backend.forward(a)
    monkeypatch.setattr(graph_backend, "BLOCK", 100 * H * D)
    with Largest() as largest:
        blocks, _ = graph_backend.forward(a)
    torch.testing.assert_close(blocks, whole, rtol=1e-13, atol=1e-13)
    assert largest.elements < 120 * H * D


def test_a_patient_does_not_depend_on_its_batch_mates():
    torch.manual_seed(0)
    lengths = torch.tensor([[4, 3], [1, 0], [17, 9], [0, 2], [5, 5]])
    start = (lengths.flatten().cumsum(0) - lengths.flatten()).view(5, 2)
    segments = torch.stack([start, lengths], -1).int()
    q, k, v = torch.randn(3, int(lengths.sum()), 3, 8)
    together = masked_attention(q, k, v, segments, segments)
    for b in range(5):
        first, n = int(start[b, 0]), int(lengths[b].sum())
        rows = slice(first, first + n)
        own = segments[b : b + 1] - torch.tensor([first, 0], dtype=torch.int32)
        alone = masked_attention(q[rows], k[rows], v[rows], own, own)
        torch.testing.assert_close(together[rows], alone, rtol=1e-6, atol=1e-6)


def test_dropout_is_the_definitions_dropout():
    from robustmdiff import use_backend
    from robustmdiff.ops.philox import philox_key

    torch.manual_seed(0)
    q, k, v = (torch.randn(7, 6, 5, dtype=torch.float64, requires_grad=True) for _ in "qkv")
    found = []
    for backend in ("torch", "definition"):
        with use_backend(masked_attention=backend):
            out = masked_attention(q, k, v, SEGMENTS, SEGMENTS, dropout_p=0.4, key=philox_key(3, 5))
        found.append([out, *torch.autograd.grad(out, (q, k, v), torch.ones_like(out))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    other = masked_attention(q, k, v, SEGMENTS, SEGMENTS, dropout_p=0.4, key=philox_key(3, 6))
    assert not torch.equal(other, found[0][0])


def test_dropout_drops_the_share_it_is_asked_for():
    from robustmdiff.ops.philox import philox_key

    n = 512
    q, k = torch.zeros(n, 2, 1), torch.zeros(n, 2, 1)  # every weight is 1 / n
    segments = torch.tensor([[[0, n]]], dtype=torch.int32)
    out = masked_attention(q, k, torch.ones(n, 2, 1), segments, segments, dropout_p=0.3, key=philox_key(1))
    dropped = 1 - out.double() * 0.7
    assert abs(float(dropped.mean()) - 0.3) < 5 * (0.3 * 0.7 / (2 * n * n)) ** 0.5
    assert float(dropped.std()) < 2 * (0.3 * 0.7 / n) ** 0.5
