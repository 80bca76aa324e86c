"""One process of test_sharded.py: `python sharded.py RANK WORLD STORE`. Fails if a sharded layer differs."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from robustmdiff.nn import GraphAttention, KnowledgeAttention, MaskedCrossModalAttention
from robustmdiff.ops import Graph


def layers(rank: int) -> Iterator[tuple[nn.Module, tuple]]:
    """A layer, the same in every process, and this process's share of the batch, of a size of its own."""
    torch.manual_seed(0)
    masked = MaskedCrossModalAttention(12, 3, modalities=2, affinity=True)
    knowledge = KnowledgeAttention(12, 3, concept_d=8, log_prior=torch.randn(6))
    graph = GraphAttention(12, 3, relations=2)
    torch.manual_seed(rank + 1)
    n = 5 + rank
    segments = torch.tensor([[[0, 2], [2, n - 3]], [[n - 1, 1], [0, 0]]], dtype=torch.int32)
    edges = [torch.randint(n, (9,)) for _ in range(2)]
    yield masked, (torch.randn(n, 12), segments)
    yield knowledge, (torch.randn(n, 12), torch.randn(6, 8))
    yield graph, (torch.randn(n, 12), Graph.from_edges(*edges, n, torch.randint(2, (9,))))


def gradients(layer: nn.Module, inputs: tuple) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and each parameter's gradient, averaged over the processes and put together."""
    out = layer(*inputs)
    out.square().sum().backward()
    found = {}
    for name, p in layer.named_parameters():
        grad = p.grad
        if isinstance(grad, torch.distributed.tensor.DTensor):
            grad = grad.full_tensor()
        found[name.replace("_fsdp_wrapped_module.", "")] = grad
    return out.detach(), found


def main(rank: int, world: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    for layer, inputs in layers(rank):
        out, grads = gradients(copy.deepcopy(layer), inputs)
        for grad in grads.values():
            dist.all_reduce(grad)
            grad /= world
        sharded, given = gradients(fully_shard(copy.deepcopy(layer), mesh=mesh), inputs)
        torch.testing.assert_close(sharded, out)
        torch.testing.assert_close(given, grads)

        wrapped = FullyShardedDataParallel(
            copy.deepcopy(layer), device_id=torch.device("cpu"), use_orig_params=True
        )
        sharded = wrapped(*inputs)
        torch.testing.assert_close(sharded, out)
        sharded.square().sum().backward()
        with FullyShardedDataParallel.summon_full_params(wrapped, with_grads=True):
            given = {name: p.grad.clone() for name, p in wrapped.module.named_parameters()}
        torch.testing.assert_close(given, grads)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
