"""Each layer under what torch can do with a module, beside the same layer in plain torch.

The twins have the parameters of the layers under the same names, so state dicts load both ways, and
nothing of ours inside.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from robustmdiff.nn import GraphAttention, KnowledgeAttention, MaskedCrossModalAttention
from robustmdiff.ops import Graph, segments_from_padded

D, HEADS, T, CONCEPTS = 12, 3, 11, 6
SEGMENTS = torch.tensor([[[0, 4], [4, 3]], [[7, 0], [8, 2]]], dtype=torch.int32)  # rows 7 and 10 absent
EDGES = torch.tensor([[0, 1, 1, 4, 5, 5], [1, 0, 3, 3, 3, 6], [0, 1, 1, 0, 1, 0]])
GRAPH = Graph.from_edges(EDGES[0], EDGES[1], T, EDGES[2])
LOG_PRIOR = torch.tensor([-1.0, -2.0, -torch.inf, -0.5, -3.0, -1.5])


def heads(x: Tensor) -> Tensor:
    """[n, D] -> [HEADS, n, D / HEADS]"""
    return x.unflatten(-1, (HEADS, -1)).transpose(0, 1)


class MaskedTwin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W_q, self.W_k, self.W_v = (nn.Linear(D, D) for _ in range(3))
        self.W_o = nn.Linear(D, D, bias=False)
        self.affinity = nn.Parameter(torch.empty(HEADS, 2, 2))

    def forward(self, x: Tensor, segments: Tensor) -> Tensor:
        patient, modality = torch.full((2, len(x)), -1)
        for b in range(len(segments)):
            for i, (start, length) in enumerate(segments[b].tolist()):
                patient[start : start + length], modality[start : start + length] = b, i
        there = patient >= 0
        patient, modality = patient[there], modality[there]
        q, k, v = (heads(W(x[there])) for W in (self.W_q, self.W_k, self.W_v))
        bias = self.affinity[:, modality[:, None], modality]
        bias = bias.masked_fill(patient[:, None] != patient, -torch.inf)
        read = scaled_dot_product_attention(q, k, v, bias.to(q.dtype))
        out = self.W_o(read.transpose(0, 1).flatten(1))
        return out.new_zeros(len(x), D).index_put((there.nonzero()[:, 0],), out)


class KnowledgeTwin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Q, self.W_o = (nn.Linear(D, D, bias=False) for _ in range(2))
        self.R = nn.Linear(8, D, bias=False)
        self.strength = nn.Parameter(torch.empty(1))
        self.register_buffer("log_prior", torch.empty(CONCEPTS))
        self.register_buffer("absent", torch.empty(CONCEPTS, dtype=torch.bool))

    def forward(self, H: Tensor, K: Tensor) -> Tensor:
        keys = heads(self.R(K))
        prior = (self.strength * self.log_prior).masked_fill(self.absent, -torch.inf)
        read = (heads(self.Q(H)) @ keys.mT / 2 + prior).softmax(-1).to(keys.dtype) @ keys
        return self.W_o(read.transpose(0, 1).flatten(1))


class GraphTwin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W_q, self.W_k, self.W_v, self.W_o = (nn.Linear(D, D, bias=False) for _ in range(4))
        self.relation_bias = nn.Parameter(torch.empty(HEADS, 2))

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        q, k, v = (heads(W(x)) for W in (self.W_q, self.W_k, self.W_v))
        source, target, relation = EDGES
        edge = torch.zeros(len(x), len(x), dtype=torch.bool).index_put((target, source), torch.tensor(True))
        bias = torch.zeros(HEADS, len(x), len(x)).type_as(self.relation_bias)
        bias = bias.index_put((torch.arange(HEADS)[:, None], target, source), self.relation_bias[:, relation])
        weight = (q @ k.mT / 2 + bias).masked_fill(~edge, -1e30).softmax(-1) * edge
        return x + self.W_o((weight.to(v.dtype) @ v).transpose(0, 1).flatten(1))


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


LAYERS = {
    "masked": lambda: MaskedCrossModalAttention(D, HEADS, modalities=2, affinity=True),
    "knowledge": lambda: KnowledgeAttention(D, HEADS, concept_d=8, log_prior=LOG_PRIOR),
    "graph": lambda: GraphAttention(D, HEADS, relations=2),
}
TWINS = {"masked": MaskedTwin, "knowledge": KnowledgeTwin, "graph": GraphTwin}
INPUTS = {
    "masked": (draw(T, D), SEGMENTS),
    "knowledge": (draw(T, D), draw(CONCEPTS, 8)),
    "graph": (draw(T, D), GRAPH),
}


@pytest.fixture(params=["masked", "knowledge", "graph"])
def name(request) -> str:
    return request.param


@pytest.fixture
def inputs(name) -> tuple:
    return INPUTS[name]


@pytest.fixture
def layer(name) -> nn.Module:
    torch.manual_seed(0)
    made = LAYERS[name]().double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


@pytest.fixture
def twin(name, layer) -> nn.Module:
    made = TWINS[name]().double()
    made.load_state_dict(layer.state_dict())
    return made


def test_the_twin_with_the_same_weights_computes_and_learns_the_same(layer, twin, inputs):
    ours, theirs = layer(*inputs), twin(*inputs)
    torch.testing.assert_close(ours, theirs)
    for out in (ours, theirs):
        out.square().sum().backward()
    ours, theirs = ({name: p.grad for name, p in module.named_parameters()} for module in (layer, twin))
    torch.testing.assert_close(ours, theirs)
    layer.load_state_dict(twin.state_dict())


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole_with_its_gradient(layer, inputs, dynamic):
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    found = []
    for run in (layer, compiled):
        layer.zero_grad()
        out = run(*inputs)
        out.square().sum().backward()
        found.append((out, [p.grad for p in layer.parameters()]))
    torch.testing.assert_close(found[1], found[0])


def test_exports_for_any_number_of_rows(layer, inputs):
    rows = torch.export.Dim("rows", min=2)
    shapes = None if isinstance(layer, GraphAttention) else ({0: rows}, None)  # a graph fixes its nodes
    exported = torch.export.export(layer, inputs, dynamic_shapes=shapes).module()
    torch.testing.assert_close(exported(*inputs), layer(*inputs))
    if shapes is not None:
        more = (torch.cat([inputs[0], draw(4, D)]), inputs[1])
        torch.testing.assert_close(exported(*more), layer(*more))


def test_autocast_is_that_of_the_twin(layer, twin, inputs):
    exact = twin(*inputs)
    layer, twin = layer.float(), twin.float()
    inputs = tuple(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = layer(*inputs), twin(*inputs)
    assert ours.dtype == theirs.dtype
    error, budget = (ours - exact).abs().max(), 2 * (theirs - exact).abs().max()
    assert 0 < error <= budget
    ours.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in layer.parameters())


def test_functional_gradients_are_the_twins(layer, twin, inputs):
    def loss(weights, module, *inputs):
        return torch.func.functional_call(module, weights, inputs).square().sum()

    ours, theirs = (
        torch.func.grad(loss)({k: v.detach() for k, v in module.named_parameters()}, module, *inputs)
        for module in (layer, twin)
    )
    torch.testing.assert_close(ours, theirs)


def test_deep_copies_are_equal_and_separate(layer, inputs):
    expected = layer(*inputs)
    copied = copy.deepcopy(layer)
    assert torch.equal(copied(*inputs), expected)
    nn.init.zeros_(copied.W_o.weight)
    assert torch.equal(layer(*inputs), expected)


def test_with_nothing_missing_it_is_torchs_multihead_attention():
    """Weights go over: the three inputs' one below the other, W_o's bias 0."""
    layer, x = MaskedCrossModalAttention(D, HEADS).double(), draw(2, 5, D)
    theirs = nn.MultiheadAttention(D, HEADS, batch_first=True, dtype=torch.float64)
    projections = (layer.W_q, layer.W_k, layer.W_v)
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([W.weight for W in projections]),
            "in_proj_bias": torch.cat([W.bias for W in projections]),
            "out_proj.weight": layer.W_o.weight,
            "out_proj.bias": torch.zeros(D),
        }
    )
    segments = segments_from_padded(torch.tensor([[3, 2], [3, 2]]), [0, 3, 5])
    ours = layer(x.flatten(0, 1), segments).unflatten(0, (2, 5))
    torch.testing.assert_close(ours, theirs(x, x, x, need_weights=False)[0])
