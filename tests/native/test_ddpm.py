"""What the C++ step promises beyond its values: bits, memory and machines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff import use_backend
from robustmdiff.ops import ddpm_noise, ddpm_step, philox_key
from robustmdiff.ops.ddpm import native
from robustmdiff.ops.philox import philox_normal

TABLE = torch.linspace(0.1, 0.9, 80).reshape(10, 8)
KEY = philox_key(2**50 + 9, 3)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def run(x, output, step, **rest):
    with use_backend(ddpm_step="native"):
        return ddpm_step(output, x, step, TABLE, uncond=x.flip(-1), guidance=2.0, key=KEY, **rest)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_normals_are_those_of_the_definition_to_1e_6(isa):
    step, ids, n = torch.tensor([0, 7, 2**31 + 3]), torch.tensor([0, 5, 2**32 - 1]), 100_003
    z = native.operators.normal(torch.empty(3, n), step, KEY, ids)
    assert (z - philox_normal(KEY, step, ids, n)).abs().max() <= 1e-6


def test_words_are_exact(isa):
    """Radius and angle of each pair show two of its words; one wrong bit in one round would scatter both."""
    step, n = torch.tensor([4]), 4096
    z = native.operators.normal(torch.empty(1, n), step, KEY, None).double().numpy()[0].reshape(-1, 2)
    exact = philox_normal(KEY, step, None, n).numpy()[0].reshape(-1, 2)
    radius, angle = np.hypot(*z.T), np.arctan2(z[:, 1], z[:, 0])
    assert np.abs(radius - np.hypot(*exact.T)).max() < 1e-6
    turned = np.angle(np.exp(1j * (angle - np.arctan2(exact[:, 1], exact[:, 0]))))
    assert np.abs(turned[radius > 1e-2]).max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(isa, threads, dtype):
    x, output, step = draw(5, 20_001, dtype=dtype), draw(5, 20_001, seed=1, dtype=dtype), torch.arange(5)
    found = []
    for n in (1, 2, 3):
        threads(n)
        found.append(run(x, output, step))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("size", [1, 63, 64, 4097, 9000])
def test_a_row_does_not_depend_on_its_batch_mates(isa, size):
    x, output = draw(4, size), draw(4, size, seed=1)
    step, ids = torch.tensor([3, 0, 9, 3]), torch.tensor([11, 5, 2, 0])
    together = run(x, output, step, row_ids=ids)
    for b in range(4):
        one = slice(b, b + 1)
        alone = run(x[one], output[one], step[one], row_ids=ids[one])
        assert torch.equal(alone, together[one])
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(run(x[order], output[order], step[order], row_ids=ids[order]), together[order])


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.integers(1, 300))
def test_an_element_does_not_depend_on_where_its_row_ends(size, more):
    x, output, step = draw(2, size + more), draw(2, size + more, seed=1), torch.tensor([3, 8])
    with use_backend(ddpm_step="native"):
        long = ddpm_step(output, x, step, TABLE, key=KEY)
        short = ddpm_step(output[:, :size], x[:, :size], step, TABLE, key=KEY)
    assert torch.equal(short, long[:, :size])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_any_shape_in_any_strides(shape, random):
    order = list(range(len(shape)))
    random.shuffle(order)
    x, output = draw(*shape), draw(*shape, seed=1)
    inverse = [order.index(i) for i in range(len(shape))]
    strided = x.permute(order).contiguous().permute(inverse)
    step = torch.arange(shape[0])
    assert torch.equal(run(x, output, step), run(strided, output, step))


def test_memory_around_the_tensors_is_never_touched(isa):
    """Views into larger buffers full of NaN: nothing of it gets in, nothing of it is written."""
    rows, size, margin = 3, 77, 64
    values = [draw(rows, size, seed=i) for i in range(3)]
    plain = run(values[0], values[1], torch.tensor([1, 2, 3]))

    def surrounded(x):
        buffer = torch.full((x.numel() + 2 * margin,), float("nan"))
        view = buffer[margin:-margin].view(x.shape)
        view.copy_(x)
        return buffer, view

    (_, x), (_, output), (_, uncond) = (surrounded(v) for v in (values[0], values[1], values[0].flip(-1)))
    buffer, out = surrounded(torch.full((rows, size), float("nan")))
    with use_backend(ddpm_step="native"):
        ddpm_step(output, x, torch.tensor([1, 2, 3]), TABLE, uncond=uncond, guidance=2.0, key=KEY, out=out)
    assert torch.equal(out, plain)
    assert buffer[:margin].isnan().all()
    assert buffer[-margin:].isnan().all()


def test_out_may_be_the_sample_itself():
    x, output, step = draw(3, 500), draw(3, 500, seed=1), torch.tensor([1, 2, 3])
    with use_backend(ddpm_step="native", ddpm_noise="native"):
        expected = ddpm_step(output, x, step, TABLE, key=KEY)
        again = x.clone()
        assert ddpm_step(output, again, step, TABLE, key=KEY, out=again) is again
        assert torch.equal(again, expected)
        expected, again = ddpm_noise(x, step, TABLE, key=KEY), x.clone()
        assert torch.equal(ddpm_noise(again, step, TABLE, key=KEY, out=again), expected)


def test_instruction_sets_agree_to_rounding(levels, monkeypatch):
    x, output, step = draw(3, 1000), draw(3, 1000, seed=1), torch.tensor([1, 2, 3])
    v = draw(3, 1000, seed=2).clamp(-1, 1)
    found = []
    for isa in levels:
        monkeypatch.setenv("RMD_CPU_ISA", isa)
        found.append(run(x, output, step, variance_output=v, variance="learned_range", clip=1.0))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_types_round_as_torch_does(isa, dtype):
    """The identity step (x0 is the output, weight 1): every 16-bit value must come back."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).reshape(1, -1)
    table = torch.zeros(1, 8)
    table[0, 2] = 1.0
    with use_backend(ddpm_step="native"):
        zero = torch.zeros_like(every)
        same = ddpm_step(every, zero, torch.tensor([0]), table, prediction="sample", noise=zero)
        assert torch.equal(same.isnan(), every.isnan())
        kept = ~every.isnan()
        assert torch.equal(same[kept], every[kept])
        table[0, 2] = 1.0 + 2**-7 + 2**-13  # now every result has to be rounded, some past the largest
        scaled = ddpm_step(every, zero, torch.tensor([0]), table, prediction="sample", noise=zero)
    expected = (every.float() * table[0, 2]).to(dtype)
    assert torch.equal(scaled[kept], expected[kept])


def test_nan_is_passed_on_not_hidden(isa):
    x, output = draw(1, 40), draw(1, 40, seed=1)
    output[0, 7] = float("nan")
    with use_backend(ddpm_step="native"):
        out = ddpm_step(output, x, torch.tensor([2]), TABLE, clip=1.0, key=KEY)
    assert out.isnan().nonzero().tolist() == [[0, 7]]


def test_an_unknown_instruction_set_is_an_error(monkeypatch):
    monkeypatch.setenv("RMD_CPU_ISA", "neon")
    with pytest.raises(RuntimeError, match="RMD_CPU_ISA is neon, expected scalar, avx2 or avx512"):
        run(draw(1, 4), draw(1, 4), torch.tensor([0]))
