from __future__ import annotations

import threading

import pytest
import torch
from torch.profiler import profile

from robustmdiff import explain, use_backend
from robustmdiff.ops import knowledge_attention
from robustmdiff.ops.dispatch import Backend, BackendError, Op


@pytest.fixture
def halve():
    """An op with a backend that takes even numbers only, and one that takes all."""

    def odd(x: int) -> list[str]:
        return [f"x = {x} is odd"] if x % 2 else []

    op = Op(
        "halve",
        lambda x: x,
        (
            Backend("shift", lambda x: ("shift", x >> 1), odd),
            Backend("any", lambda x: ("any", x / 2)),
        ),
    )
    yield op
    del Op.registry["halve"]


def test_auto_takes_the_first_backend_that_can(halve):
    assert halve.select(4).name == "shift"
    assert halve.select(3).name == "any"


def test_explain_says_why_each_other_one_does_not_run(halve):
    assert explain("halve", 4).chosen == "shift"
    assert explain("halve", 4).declined == {"any": ["shift is preferred"]}
    assert explain("halve", 3).declined == {"shift": ["x = 3 is odd"]}
    assert str(explain("halve", 3)) == "halve: any\n  not shift: x = 3 is odd"


def test_a_backend_asked_for_by_name_runs_or_raises(halve):
    with use_backend(halve="any"):
        assert halve.select(4).name == "any"
        assert explain("halve", 4).declined == {"shift": ["any was asked for by name"]}
    with use_backend(halve="shift"), pytest.raises(BackendError, match="'shift' cannot run: x = 3 is odd"):
        halve.select(3)
    assert halve.select(4).name == "shift"


def test_auto_passes_over_a_backend_that_is_slower_but_a_name_does_not():
    def large(x: int) -> list[str]:
        return [f"any is faster for x = {x}"] if x > 100 else []

    op = Op(
        "third",
        lambda x: x,
        (Backend("table", lambda x: "table", slower=large), Backend("any", lambda x: "any")),
    )
    try:
        assert (op(9), op(900)) == ("table", "any")
        assert explain("third", 900).declined == {"table": ["any is faster for x = 900"]}
        with use_backend(third="table"):
            assert op(900) == "table"
            assert explain("third", 900).declined == {"any": ["table was asked for by name"]}
    finally:
        del Op.registry["third"]


def test_unknown_names_are_named(halve):
    with (
        pytest.raises(BackendError, match="backend is 'gpu', expected one of 'shift', 'any'"),
        use_backend(halve="gpu"),
    ):
        pass
    with (
        pytest.raises(BackendError, match=r"op is 'thirds', expected one of .*halve"),
        use_backend(thirds="any"),
    ):
        pass
    with pytest.raises(BackendError, match="op is 'thirds'"):
        explain("thirds")


def test_a_request_stays_in_its_thread(halve):
    found = []
    with use_backend(halve="any"):
        thread = threading.Thread(target=lambda: found.append(halve.select(4).name))
        thread.start()
        thread.join()
    assert found == ["shift"]


def test_explain_takes_the_arguments_of_the_function():
    q, concepts = torch.randn(3, 2, 5), torch.randn(7, 5)
    explained = explain("knowledge_attention", q, concepts, scale=0.5)
    assert explained.chosen == "native"
    assert explained.declined["torch"] == explained.declined["definition"] == ["native is preferred"]
    with pytest.raises(ValueError, match="concepts must be"):
        explain("knowledge_attention", q, torch.randn(7, 4), scale=0.5)


def test_compiled_code_follows_a_request():
    q, concepts = torch.randn(3, 2, 5), torch.randn(7, 5)
    graphs = []

    def backend(graph, _):
        graphs.append(str(graph.code))
        return graph

    compiled = torch.compile(
        lambda q: knowledge_attention(q, concepts, scale=0.5), fullgraph=True, backend=backend
    )
    compiled(q)
    assert "knowledge_attention_fwd" in graphs[-1]
    with use_backend(knowledge_attention="definition"):
        compiled(q)
        assert len(graphs) == 2
        assert "knowledge_attention_fwd" not in graphs[-1]
    compiled(q)
    assert len(graphs) == 2


def test_the_profiler_sees_the_operator():
    q, concepts = torch.randn(5, 3, 4), torch.randn(7, 4)
    with profile() as seen:
        knowledge_attention(q, concepts, scale=0.5)
    assert "robustmdiff::knowledge_attention_fwd" in {event.name for event in seen.events()}


def test_an_operator_refuses_tensors_of_several_devices():
    """Where one is on the meta device, torch takes the shape rule, which would compute nothing."""
    q, concepts = torch.randn(5, 3, 4), torch.randn(7, 4, device="meta")
    with pytest.raises(ValueError, match=r"tensors are on .*, expected one device"):
        torch.ops.robustmdiff.knowledge_attention_fwd(q, concepts, None, 0.5)
