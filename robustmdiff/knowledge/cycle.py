"""The search for a cycle in a graph over concepts."""

from __future__ import annotations

from collections.abc import Sequence


def find_cycle(num_nodes: int, source: Sequence[int], target: Sequence[int]) -> list[int] | None:
    """Nodes of one directed cycle, the first repeated at the end ([a, b, a]); None if there is none.

    Depth-first from node 0 up, edges of a node in their given order, so the answer is the same
    every time. Time and memory are linear in nodes and edges; deep graphs do not recurse.
    """
    successors: list[list[int]] = [[] for _ in range(num_nodes)]
    for s, t in zip(source, target, strict=True):
        successors[s].append(t)
    new, open_, done = 0, 1, 2
    state = [new] * num_nodes
    for start in range(num_nodes):
        if state[start] != new:
            continue
        state[start] = open_
        path, pending = [start], [iter(successors[start])]
        while path:
            for node in pending[-1]:
                if state[node] == open_:
                    return [*path[path.index(node) :], node]
                if state[node] == new:
                    state[node] = open_
                    path.append(node)
                    pending.append(iter(successors[node]))
                    break
            else:
                state[path.pop()] = done
                pending.pop()
    return None
