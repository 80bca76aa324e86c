"""What a captured chain keeps and copies; a pretended graph runs the definition when it is replayed.

A GPU is asked in tests/device/test_chain.py.
"""

from __future__ import annotations

import pytest
import torch

from robustmdiff.ops import philox_key
from robustmdiff.ops.chain import definition, graph_backend
from robustmdiff.ops.chain.arguments import arguments
from robustmdiff.ops.chain.graph_backend import MOST, Captured, inputs_of
from tests.ops.chain.test_chain import at, call


class Pretended:
    """Replays as a graph does: from its own tensors into its own."""

    def __init__(self, given, out) -> None:
        self.given, self.out = given, out

    def replay(self) -> None:
        self.out.copy_(definition.chain(self.given))


@pytest.fixture
def captures(monkeypatch) -> list:
    made = []

    def capture(a):
        copied = {name: x.clone() for name, x in a._asdict().items() if name in ("x", "told", "time")}
        kept = {
            name: None if x is None else x.clone() for name, x in (("key", a.key), ("row_ids", a.row_ids))
        }
        given, out = a._replace(**copied, **kept), torch.empty_like(a.x)
        made.append(given)
        return Captured(Pretended(given, out), inputs_of(given), out)

    monkeypatch.setattr(graph_backend, "capture", capture)
    monkeypatch.setattr(graph_backend, "stream_of", lambda x: 0)
    return made


def test_it_replays_with_new_inputs_keys_and_weights(captures):
    args, drawn = call(4, 3, 2, 16, 32, 1, 3)
    x, told, weights, time, table = at(args, torch.float32)

    def both(x, told, time, **drawn) -> None:
        a = arguments(x, told, weights, time, table, **drawn)
        assert torch.equal(graph_backend.run(a), definition.chain(a))

    both(x, told, time, **drawn)
    both(x + 1, told.flip(0), 2 * time, key=philox_key(9), row_ids=drawn["row_ids"] + 5)
    weights.enter.weight.mul_(2)
    both(x, told, time, **drawn)
    assert len(captures) == 1


def test_another_form_table_or_place_is_another_graph(captures):
    args, drawn = call(4, 3, 2, 16, 32, 1, 3)
    x, told, weights, time, table = at(args, torch.float32)
    elsewhere = weights._replace(enter=weights.enter._replace(bias=torch.ones(16)))
    for changed in (
        arguments(x, told, weights, time, table, **drawn),
        arguments(x[:2], told[:2], weights, time, table, key=drawn["key"]),
        arguments(x, told, weights, time, table / 2, **drawn),
        arguments(x, told, elsewhere, time, table, **drawn),
    ):
        assert torch.equal(graph_backend.run(changed), definition.chain(changed))
    assert len(captures) == 4


def test_the_last_used_are_kept(captures):
    args, drawn = call(MOST + 2, 3, 2, 16, 32, 1, 3)
    x, told, weights, time, table = at(args, torch.float32)

    def run(rows: int) -> None:
        graph_backend.run(arguments(x[:rows], told[:rows], weights, time, table, key=drawn["key"]))

    for rows in range(1, MOST + 1):
        run(rows)
    run(1)
    run(MOST + 1)  # in the place of 2
    run(1)
    assert len(captures) == MOST + 1
    run(2)
    assert len(captures) == MOST + 2


def test_an_answer_is_not_overwritten_by_the_next(captures):
    args, drawn = call(4, 3, 2, 16, 32, 1, 3)
    x, told, *rest = at(args, torch.float32)
    first = graph_backend.run(arguments(x, told, *rest, **drawn))
    kept = first.clone()
    graph_backend.run(arguments(2 * x, told, *rest, **drawn))
    assert torch.equal(first, kept)


def test_it_declines_the_cpu():
    args, drawn = call(4, 3, 2, 16, 32, 1, 3)
    assert graph_backend.reasons(arguments(*at(args, torch.float32), **drawn)) == [
        "there are no graphs on cpu"
    ]
