"""The situations in which every backend of every attention op is tested, on the CPU or on the device
that RMD_TEST_DEVICE names."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robustmdiff.ops import segments_from_padded
from robustmdiff.ops.dispatch import BackendError, Op
from robustmdiff.ops.triton_support import INTERPRETED
from tests.ops.cases import DEVICE, Case, graph_case, knowledge_case, masked_case, segments

OPS = ("masked_attention", "knowledge_attention", "graph_attention")


def masked_cases() -> list[Case]:
    ragged = segments([[4, 3, 5], [0, 2, 4], [0, 0, 0], [1, 0, 0], [3, 3, 5]], [0, 4, 8, 13])
    one_row = torch.tensor([[[i, 1]] for i in range(5)], dtype=torch.int32)
    packed = torch.tensor([[[7, 2], [0, 0]], [[0, 3], [4, 2]]], dtype=torch.int32)
    left = segments_from_padded(torch.tensor([[2], [5], [0]]), torch.tensor([[3, 5], [0, 5], [5, 5]]))
    heads = 2 if INTERPRETED else 6  # a program of a kernel takes milliseconds there

    def case(name: str, *arguments: Any, shared: int = 1, **settings: Any) -> Case:
        return masked_case(name, *arguments, H=heads, Hkv=max(heads // shared, 1), **settings)

    return [
        case("some-absent", ragged, 65),
        case("nothing-present", segments([[0, 0], [0, 0], [0, 0]], [0, 2, 5]), 15),
        case("no-tokens-at-all", torch.zeros(2, 3, 2, dtype=torch.int32), 0),
        case("one-token", torch.tensor([[[0, 1]]], dtype=torch.int32), 1),
        case("everything-present", segments([[3, 2], [3, 2], [3, 2]], [0, 3, 5]), 15),
        case("packed-out-of-order", packed, 9),
        case("left-padded", left, 15),
        case("learned-queries", ragged, 65, one_row, 5),
        case("shared-key-heads", ragged, 65, shared=3),
        case("affinity", ragged, 65, affinity=True),
        case("affinity-shared-key-heads", ragged, 65, shared=2, affinity=True),
        case("exclude-own", ragged, 65, exclude_own=True),
        case("affinity-exclude-own", ragged, 65, shared=3, affinity=True, exclude_own=True),
    ]


def knowledge_cases() -> list[Case]:
    return [
        knowledge_case("no-prior", 5, 3, 7, 11, None),
        knowledge_case("prior", 5, 3, 7, 11, []),
        knowledge_case("some-absent", 5, 3, 7, 11, [0, 4, 10]),
        knowledge_case("nothing-present", 5, 3, 7, 2, [0, 1]),
        knowledge_case("one-concept", 2, 3, 7, 1, None),
        knowledge_case("no-rows", 0, 3, 7, 11, []),
        knowledge_case("one-row", 1, 1, 7, 11, []),
    ]


def graph_cases() -> list[Case]:
    source, target = [0, 1, 2, 2, 5, 8, 8, 1, 0], [1, 0, 0, 3, 3, 3, 3, 10, 10]
    return [
        graph_case("several-edges", 11, source, target),
        graph_case("relations", 11, source, target, [0, 1, 2, 4, 4, 0, 0, 1, 2]),
        graph_case("nothing-present", 4, [], []),
        graph_case("one-node", 1, [0], [0]),
        graph_case("no-nodes", 0, [], []),
    ]


CASES = [*masked_cases(), *knowledge_cases(), *graph_cases()]


def backends(op: str) -> list[str]:
    """On a GPU all but the definition, which is no kernel; on the CPU Triton alone in its interpreter
    (tests/kernels starts that), every other one elsewhere."""
    having = [b.name for b in Op.registry[op].backends]
    if DEVICE != "cpu":
        return [name for name in having if name != "definition"]
    return [name for name in having if (name == "triton") == INTERPRETED]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """On a GPU a backend may decline, and the test is skipped in its words."""
    try:
        return (yield)
    except BackendError as declined:
        if DEVICE == "cpu":
            raise
        pytest.skip(str(declined))


def pytest_generate_tests(metafunc: Any) -> None:
    """`case` and `backend`: every situation on every backend that its op has; `case` alone: every
    situation."""
    if "case" not in metafunc.fixturenames:
        return
    if "backend" not in metafunc.fixturenames:
        metafunc.parametrize("case", [pytest.param(c, id=f"{c.op}-{c.name}") for c in CASES])
        return
    metafunc.parametrize(
        ("case", "backend"),
        [pytest.param(c, b, id=f"{c.op}-{c.name}-{b}") for c in CASES for b in backends(c.op)],
    )
