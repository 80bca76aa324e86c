"""PyG's TransformerConv with our op inside, weights and results unchanged.

python examples/graph_transformer.py        needs torch_geometric
"""

import torch
from torch import Tensor, nn
from torch_geometric.nn import TransformerConv

from robustmdiff.ops import Graph, graph_attention


class FusedTransformerConv(TransformerConv):
    """TransformerConv(in, out, heads) without edge features: no array with a row for each edge and width."""

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, self.out_channels))
            for project in (self.lin_query, self.lin_key, self.lin_value)
        )
        return graph_attention(q, k, v, graph).flatten(1) + self.lin_skip(x)


class GraphTransformer(nn.Module):
    def __init__(self, conv: type[TransformerConv]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([conv(16, 8, heads=4), conv(32, 8, heads=4), conv(32, 5, heads=1)])

    def forward(self, x: Tensor, edges: Tensor | Graph) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x, edges).relu()
        return self.layers[-1](x, edges)


n, E = 300, 2000
edge_index, x = torch.randint(n, (2, E)), torch.randn(n, 16)
graph = Graph.from_edges(edge_index[0], edge_index[1], num_nodes=n)  # once for all layers and steps

theirs, ours = GraphTransformer(TransformerConv), GraphTransformer(FusedTransformerConv)
ours.load_state_dict(theirs.state_dict())
expected, found = theirs(x, edge_index), ours(x, graph)
torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
print(f"greatest difference on {n} nodes and {E} edges: {(found - expected).abs().max():.1e}")

expected.square().sum().backward()
found.square().sum().backward()
for (name, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
    torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3, msg=name)
print("and every weight has the same gradient")
