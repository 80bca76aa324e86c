"""What the C++ chain promises beyond its values: bits, memory and machines."""

from __future__ import annotations

import math

import pytest
import torch

from robustmdiff import use_backend
from robustmdiff.ops import chain
from robustmdiff.ops.chain import native
from robustmdiff.testing.contracts import error, largest
from tests.ops.chain.networks import by_hand
from tests.ops.chain.test_chain import at, call


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def run(x, told, *rest, **drawn):
    with use_backend(chain="native"), torch.no_grad():
        return chain(x, told, *rest, **drawn)


def test_every_instruction_set_is_exact(isa):
    args, drawn = call(23, 21, 9, 48, 80, 2, 5)
    single = at(args, torch.float32)
    exact = by_hand(*at(single, torch.float64), **drawn)
    budget = 2 * (error(by_hand(*single, **drawn), exact) + 1e-6 * largest(exact))
    assert error(run(*single, **drawn), exact) <= budget


def test_bits_do_not_depend_on_the_number_of_threads(isa, threads):
    args, drawn = call(203, 21, 9, 48, 80, 2, 3)
    found = []
    for n in (1, 2, 3):
        threads(n)
        found.append(run(*at(args, torch.float32), **drawn))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_row_does_not_depend_on_its_batch_mates(isa):
    args, drawn = call(60, 5, 9, 32, 48, 1, 3)
    x, told, *rest = at(args, torch.float32)
    together = run(x, told, *rest, **drawn)
    for some in ([0], [3, 1], list(range(7)), list(range(59, 10, -1))):
        taken = run(x[some], told[some], *rest, key=drawn["key"], row_ids=drawn["row_ids"][some])
        assert torch.equal(taken, together[some])


def test_rows_that_are_told_the_same_do_not_differ_from_others(isa):
    """They share their condition; a row alone has its own."""
    args, drawn = call(60, 5, 9, 32, 48, 1, 3)
    x, told, *rest = at(args, torch.float32)
    told = told[torch.arange(60) % 7 * (torch.arange(60) < 40) + torch.arange(60) // 20]
    together = run(x, told, *rest, **drawn)
    for some in ([0], [3, 10, 17], list(range(59, 10, -1))):
        taken = run(x[some], told[some], *rest, key=drawn["key"], row_ids=drawn["row_ids"][some])
        assert torch.equal(taken, together[some])
    with use_backend(chain="torch"), torch.no_grad():
        torch.testing.assert_close(together, chain(x, told, *rest, **drawn), rtol=1e-4, atol=1e-5)


def test_memory_beside_what_is_given_is_not_read(isa):
    """Rows end inside a vector: what lies behind them is poisoned."""
    args, drawn = call(5, 3, 7, 16, 16, 1, 3)
    x, told, *rest = at(args, torch.float32)

    def beside(x: torch.Tensor) -> torch.Tensor:
        wide = torch.full((x.numel() + 64,), torch.nan)
        wide[32 : 32 + x.numel()] = x.flatten()
        return wide[32 : 32 + x.numel()].view(x.shape)

    assert torch.equal(run(beside(x), beside(told), *rest, **drawn), run(x, told, *rest, **drawn))


def test_a_nan_of_one_row_stays_there(isa):
    args, drawn = call(9, 3, 7, 16, 16, 1, 3)
    x, told, *rest = at(args, torch.float32)
    clean = run(x, told, *rest, **drawn)
    x[4] = torch.nan
    ours = run(x, told, *rest, **drawn)
    others = torch.arange(9) != 4
    assert torch.equal(ours[others], clean[others])
    assert ours[4].isnan().all()


def test_gelu_of_large_numbers_is_not_lost(isa):
    """A network that is gelu alone: what enters it are the biases of `up`. Far below 0 torch's own is 0."""
    args, _ = call(1, 1, 0, 16, 16, 1, 1, noisy=False)
    x, told, weights, time, _ = at(args, torch.float32)
    modulate, up, down = weights.blocks[0]
    values = torch.linspace(-9, 9, 16)
    for layer in (modulate, up, down, weights.enter, weights.leave):
        layer.weight.zero_()
        layer.bias.zero_()
    up.bias.copy_(values)
    down.weight.copy_(torch.eye(16))
    for i in range(16):
        weights.leave.weight.zero_()
        weights.leave.weight[0, i] = 1
        table = torch.tensor([[0.0, 0, 1, 0, 0, 0]])
        ours = float(run(x, told, weights, time, table))
        v = float(values[i])
        assert ours == pytest.approx(v * math.erfc(-v / math.sqrt(2)) / 2, rel=5e-6), v


def test_the_kernel_checks_what_it_is_given(isa):
    args, _ = call(4, 3, 2, 16, 32, 1, 3, noisy=False)
    x, told, weights, time, table = at(args, torch.float32)
    network, times = native.pack(weights, time, 2)
    with pytest.raises(RuntimeError, match=r"network has shape \[\d+\], expected"):
        native.operator(x, told, network[:-1], times, table, None, None, 32, 1)
    with pytest.raises(RuntimeError, match="expected multiples of 16"):
        native.operator(x, told, network, times, table, None, None, 31, 1)
