"""chain against itself written apart, on every backend, and every refusal."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustmdiff import explain, use_backend
from robustmdiff.ops import chain, ddpm_step, philox_key
from robustmdiff.ops.chain import LinearWeights, native
from robustmdiff.ops.dispatch import BackendError
from robustmdiff.testing import draw
from robustmdiff.testing.contracts import error, largest
from tests.ops.chain.networks import FEATURES, by_hand, network_of, to
from tests.ops.refusal import refuses

KEY = philox_key(2**40 + 3, 5)


def call(
    rows: int, D: int, f: int, width: int, hidden: int, blocks: int, E: int, *, noisy: bool = True
) -> Any:
    """Arguments in float64, and keywords."""
    table = (draw(E, 6, seed=71) / 2).float()
    table[:, 5] = table[:, 5].abs() * (noisy and torch.arange(E) != E - 1)
    args = (
        draw(rows, D, seed=72),
        draw(rows, f, seed=73),
        network_of(D, f, width, hidden, blocks),
        draw(E, FEATURES, seed=74),
        table,
    )
    ids = torch.arange(rows).flip(0) * 3
    return args, {"key": KEY, "row_ids": ids} if noisy else {}


def at(args: Any, dtype: torch.dtype) -> Any:
    x, told, weights, time, table = args
    return x.to(dtype), told.to(dtype), to(weights, dtype), time.to(dtype), table


SIZES = {
    "one row": (1, 3, 4, 16, 16, 1, 4),
    "no rows": (0, 3, 4, 16, 16, 1, 4),
    "no block": (5, 3, 4, 16, 16, 0, 2),
    "no evaluation": (5, 3, 4, 16, 16, 1, 0),
    "nothing told": (5, 3, 0, 32, 16, 1, 3),
    "of the product": (9, 40, 61, 128, 128, 2, 4),
    "wider inside": (13, 65, 7, 32, 144, 2, 5),
    "more rows than go together": (101, 5, 2, 16, 32, 1, 3),
}


@pytest.mark.parametrize("noisy", [False, True], ids=["as-it-is", "noisy"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_backend_is_as_exact_as_the_chain_by_hand(size, noisy):
    args, drawn = call(*size, noisy=noisy)
    single = at(args, torch.float32)
    exact = by_hand(*at(single, torch.float64), **drawn)
    plain = by_hand(*single, **drawn)
    for backend in ("native", "torch"):
        with use_backend(chain=backend), torch.no_grad():
            ours = chain(*single, **drawn)
        assert ours.dtype == torch.float32
        assert ours.is_contiguous()
        budget = 2 * (error(plain, exact) + torch.finfo(torch.float32).eps * largest(exact, *args[:2]))
        assert error(ours, exact) <= budget, backend
    with use_backend(chain="torch"):
        torch.testing.assert_close(chain(*args, **drawn), by_hand(*args, **drawn), rtol=1e-11, atol=1e-11)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 70), st.integers(1, 70), st.integers(0, 20), st.integers(1, 3), st.integers(1, 4),
    st.integers(0, 2), st.integers(1, 4), st.booleans(),
)  # fmt: skip
def test_any_size(rows, D, f, width, hidden, blocks, E, strided):
    args, drawn = call(rows, D, f, 16 * width, 16 * hidden, blocks, E)
    single = at(args, torch.float32)
    exact, plain = by_hand(*at(single, torch.float64), **drawn), by_hand(*single, **drawn)
    if strided:
        single = (single[0].mT.contiguous().mT, single[1].mT.contiguous().mT, *single[2:])
    with torch.no_grad():
        ours = chain(*single, **drawn)
    assert error(ours, exact) <= 2 * (error(plain, exact) + 1e-6 * largest(exact, *args[:2]))


def test_what_is_chosen_and_why():
    args, drawn = call(4, 3, 2, 16, 32, 1, 3)
    assert explain("chain", *args, **drawn).declined["native"] == [
        "torch.float64, and the kernel takes float32"
    ]
    single = at(args, torch.float32)
    with torch.no_grad():
        assert explain("chain", *single, **drawn).chosen == "native"
    single[2].enter.bias.requires_grad_()
    assert "weights needs a gradient" in str(explain("chain", *single, **drawn))
    odd = at(call(4, 3, 2, 24, 32, 1, 3)[0], torch.float32)
    with use_backend(chain="native"), torch.no_grad(), pytest.raises(BackendError, match="widths are 24 and"):
        chain(*odd, **drawn)


def test_weights_that_were_written_to_or_replaced_count():
    args, drawn = call(4, 3, 2, 16, 32, 1, 3)
    x, told, weights, time, table = at(args, torch.float32)

    def both(weights: Any, time: Tensor) -> None:
        with torch.no_grad(), use_backend(chain="native"):
            ours = chain(x, told, weights, time, table, **drawn)
        with torch.no_grad(), use_backend(chain="torch"):
            torch.testing.assert_close(
                ours, chain(x, told, weights, time, table, **drawn), rtol=1e-4, atol=1e-5
            )

    both(weights, time)
    weights.blocks[0].up.weight.mul_(2)
    both(weights, time)
    weights.enter.bias.data = weights.enter.bias.data + 1
    both(weights, time)
    both(weights._replace(condition=LinearWeights(*(x + 1 for x in weights.condition))), time)
    both(weights, time + 1)
    both(weights, time[:3].flip(0))


@torch.inference_mode()
def test_weights_that_were_made_in_inference_mode_count_as_they_are():
    args, drawn = call(4, 3, 2, 16, 32, 1, 3)
    x, told, weights, time, table = at(args, torch.float32)
    for _ in range(2):
        with use_backend(chain="native"):
            ours = chain(x, told, weights, time, table, **drawn)
        with use_backend(chain="torch"):
            expected = chain(x, told, weights, time, table, **drawn)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
        weights.blocks[0].up.weight.mul_(2)


def test_packed_weights_go_with_the_network():
    args, drawn = call(4, 3, 2, 16, 32, 1, 3)
    single = at(args, torch.float32)
    with torch.no_grad():
        chain(*single, **drawn)
    before = len(native._made)
    del single
    assert len(native._made) == before - 1


def test_evaluation_e_draws_what_ddpm_step_draws_at_step_e():
    """Its table keeps nothing of x and takes all of the noise."""
    args, drawn = call(3, 6, 2, 16, 16, 1, 2)
    x, told, weights, time, _ = at(args, torch.float32)
    table = torch.tensor([[1.0, 0, 0, 0, 0, 1], [1.0, 0, 0, 0, 0, 1]])
    ddpm = torch.tensor([[1.0, 1, 0, 0, 1, 0, 0, 0]] * 2)
    with torch.no_grad():
        for E in (1, 2):
            ours = chain(x, told, weights, time[:E], table[:E], **drawn)
            steps = torch.full((3,), E - 1)
            same = ddpm_step(x, x, steps, ddpm, prediction="sample", **drawn)
            torch.testing.assert_close(ours, same, rtol=0, atol=1e-6)


def test_it_is_opchecked_compiled_and_exported_without_its_kernel():
    args, _ = call(4, 3, 2, 16, 32, 1, 3)
    x, told, weights, time, table = at(args, torch.float32)
    network, times = native.pack(weights, time, 2)
    torch.library.opcheck(native.operator, (x, told, network, times, table, KEY, None, 32, 1))

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, told: Tensor) -> Tensor:
            return chain(x, told, weights, time, table, key=KEY)

    rows = torch.export.Dim("rows")
    with torch.no_grad():
        program = torch.export.export(Module(), (x, told), dynamic_shapes=({0: rows}, {0: rows}))
        names = {str(node.target) for node in program.graph.nodes}
        assert not any("robustmdiff" in name for name in names)
        expected = chain(x, told, weights, time, table, key=KEY)
        torch.testing.assert_close(program.module()(x, told), expected, rtol=1e-4, atol=1e-5)
        compiled = torch.compile(Module(), fullgraph=True, dynamic=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x[:2], told[:2]), expected[:2], rtol=1e-4, atol=1e-5)


X, TOLD, WEIGHTS, TIME, TABLE = at(call(4, 3, 2, 16, 32, 1, 3)[0], torch.float32)
WRONG = WEIGHTS._replace(enter=LinearWeights(WEIGHTS.enter.weight[:, :2], WEIGHTS.enter.bias))
DOUBLE = WEIGHTS._replace(leave=LinearWeights(*(x.double() for x in WEIGHTS.leave)))
BAD = {
    "x dtype": ({"x": X.long()}, ValueError, r"x is torch.int64 \[4, 3\].*floating-point \[rows, D\]"),
    "x rank": ({"x": X[0]}, ValueError, r"x is torch.float32 \[3\]"),
    "told rows": ({"told": TOLD[:3]}, ValueError, r"told is .*\[3, 2\].*expected \[4, f\]"),
    "told dtype": ({"told": TOLD.double()}, TypeError, "told is torch.float64.*expected torch.float32"),
    "time": ({"time": TIME[:2]}, ValueError, r"time is .*\[2, 5\].*table .*\[3, 6\]"),
    "table": ({"table": TABLE[:, :5]}, ValueError, r"table .*\[3, 5\].*expected.*\[E, 6\]"),
    "table device": ({"table": TABLE.to("meta")}, ValueError, "table is .*meta.*expected it on the CPU"),
    "layer shape": ({"weights": WRONG}, ValueError, r"layer 2 of weights is \[16, 2\].*expected \[16, 3\]"),
    "layer dtype": ({"weights": DOUBLE}, TypeError, r"layer 6 of weights is torch.float64"),
    "no key": ({"key": None, "row_ids": None}, ValueError, r"sigma of row 0 is 0\.\d+ and key is None"),
    "key shape": ({"key": KEY[:1]}, ValueError, r"key is torch.int64 \[1\].*expected torch.int64 \[2\]"),
    "rows dtype": ({"row_ids": torch.arange(4).int()}, ValueError, "row_ids is torch.int32.*torch.int64"),
    "rows shape": ({"row_ids": torch.arange(3)}, ValueError, r"row_ids is .*\[3\].*torch.int64 \[4\]"),
}  # fmt: skip


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_bad_input_is_refused_by_name(change):
    bad, kind, words = change
    given = {"x": X, "told": TOLD, "weights": WEIGHTS, "time": TIME, "table": TABLE, "key": KEY}
    given |= {"row_ids": torch.arange(4)} | bad
    with torch.no_grad():
        refuses("chain", lambda: chain(**given), kind, words)


def test_row_ids_out_of_range_are_refused():
    ids = torch.tensor([0, -1, 2, 3])
    with torch.no_grad():
        call = partial(chain, X, TOLD, WEIGHTS, TIME, TABLE, key=KEY, row_ids=ids)
        refuses("chain", call, ValueError, r"row_ids\[1\] is -1, expected 0 to 2\^32 - 1")


def test_torch_asks_for_a_key_as_well():
    with (
        use_backend(chain="torch"),
        pytest.raises(ValueError, match=r"sigma of row 0 is 0\.\d+ and key is None"),
    ):
        chain(X, TOLD, WEIGHTS, TIME, TABLE)


def test_the_example_of_the_page_runs():
    page = Path(__file__).parents[3] / "docs" / "ops" / "chain.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    exec(block, {})
