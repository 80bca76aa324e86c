"""What the tests of the step do not reach: words, normals, memory around the tensors, who draws what."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from robustmdiff import explain, use_backend
from robustmdiff.kernels import ddpm as kernels
from robustmdiff.ops import DynamicThreshold, ddpm_noise, ddpm_step, philox_key
from robustmdiff.ops.ddpm import triton_backend
from robustmdiff.ops.philox import philox_normal, philox_row_words
from tests.ops.test_philox import KNOWN

TABLE = torch.linspace(0.1, 0.9, 80).reshape(10, 8)
KEY = philox_key(2**50 + 9, 3)
CHECKS = "test_schema", "test_faketensor"  # the rest, of the same schemas, in tests/ops


@triton.jit
def _store_words(out, key, row_ids, step_of_row, first):
    row = tl.program_id(0)
    group = (tl.arange(0, 4) + first.to(tl.int64)).to(tl.uint32)
    at = out + row * 16 + tl.arange(0, 4) * 4
    w0, w1, w2, w3 = philox(key, row_ids, row, tl.load(step_of_row + row), group)
    tl.store(at, w0.to(tl.int64))
    tl.store(at + 1, w1.to(tl.int64))
    tl.store(at + 2, w2.to(tl.int64))
    tl.store(at + 3, w3.to(tl.int64))


philox = kernels.words


def words(key, row_ids, step, first):
    out = torch.empty(len(step), 16, dtype=torch.int64)
    _store_words[(len(step),)](out, key, row_ids, step, first)
    return out


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_words_are_those_of_random123(counter, key, answer):
    group, row, step, offset = counter
    found = words(
        philox_key(key[0] + (key[1] << 32), offset), torch.tensor([row]), torch.tensor([step]), group
    )
    assert found[0, :4].tolist() == answer


def test_words_are_those_of_the_definition():
    step, ids = torch.tensor([3, 2**31 + 3, 0]), torch.tensor([5, 2**32 - 1, 0])
    assert torch.equal(words(KEY, ids, step, 0), philox_row_words(KEY, step, ids, 16))
    assert torch.equal(words(KEY, None, step, 0), philox_row_words(KEY, step, None, 16))


def test_normals_are_those_of_the_definition_to_1e_6():
    step, ids, n = torch.tensor([0, 7, 2**31 + 3]), torch.tensor([0, 5, 2**32 - 1]), 20_003
    z = torch.empty(3, n)
    kernels.normal(z, step, KEY, ids)
    assert (z - philox_normal(KEY, step, ids, n)).abs().max() <= 1e-6


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(x, output, step, **rest):
    with use_backend(ddpm_step="triton"):
        return ddpm_step(output, x, step, TABLE, uncond=x.flip(-1), guidance=2.0, key=KEY, **rest)


@pytest.mark.parametrize("size", [1, 63, 1025])
def test_a_row_does_not_depend_on_its_batch_mates(size):
    x, output = draw(4, size), draw(4, size, seed=1)
    step, ids = torch.tensor([3, 0, 9, 3]), torch.tensor([11, 5, 2, 0])
    together = run(x, output, step, row_ids=ids)
    for b in range(4):
        one = slice(b, b + 1)
        assert torch.equal(run(x[one], output[one], step[one], row_ids=ids[one]), together[one])


def test_memory_around_the_tensors_is_never_touched():
    rows, size, margin = 3, 77, 64
    values = [draw(rows, size, seed=i) for i in range(2)]
    plain = run(*values, torch.tensor([1, 2, 3]))

    def surrounded(x):
        buffer = torch.full((x.numel() + 2 * margin,), float("nan"))
        view = buffer[margin:-margin].view(x.shape)
        view.copy_(x)
        return buffer, view

    (_, x), (_, output) = (surrounded(v) for v in values)
    buffer, out = surrounded(torch.full((rows, size), float("nan")))
    run(x, output, torch.tensor([1, 2, 3]), out=out)
    assert torch.equal(out, plain)
    assert buffer[:margin].isnan().all()
    assert buffer[-margin:].isnan().all()


def test_out_may_be_the_sample_itself():
    x, output, step = draw(3, 500), draw(3, 500, seed=1), torch.tensor([1, 2, 3])
    with use_backend(ddpm_step="triton", ddpm_noise="triton"):
        expected, again = ddpm_step(output, x, step, TABLE, key=KEY), x.clone()
        assert ddpm_step(output, again, step, TABLE, key=KEY, out=again) is again
        assert torch.equal(again, expected)
        expected, again = ddpm_noise(x, step, TABLE, key=KEY), x.clone()
        assert torch.equal(ddpm_noise(again, step, TABLE, key=KEY, out=again), expected)


def test_nan_is_passed_on_not_hidden():
    x, output = draw(1, 40), draw(1, 40, seed=1)
    output[0, 7] = float("nan")
    with use_backend(ddpm_step="triton"):
        out = ddpm_step(output, x, torch.tensor([2]), TABLE, clip=1.0, key=KEY)
    assert out.isnan().nonzero().tolist() == [[0, 7]]


def test_what_it_declines():
    x, step = draw(2, 3), torch.tensor([1, 2])
    dynamic = explain("ddpm_step", x, x, step, TABLE, clip=DynamicThreshold(), key=KEY)
    assert "dynamic thresholding" in "; ".join(dynamic.declined["triton"])
    double = explain("ddpm_step", x.double(), x.double(), step, TABLE, key=KEY)
    assert "float64" in "; ".join(double.declined["triton"])


def test_operators_pass_opcheck():
    x, step, ids = draw(2, 5), torch.tensor([1, 9]), torch.tensor([3, 0])
    noise_args = x, step, TABLE, KEY, ids, None
    step_args = x, x, step, TABLE, x, None, None, KEY, ids, None, 2.0, 1.0, 0, False
    torch.library.opcheck(triton_backend.operators.step, step_args, test_utils=CHECKS)
    torch.library.opcheck(
        triton_backend.operators.step_out, (torch.empty_like(x), *step_args), test_utils=CHECKS
    )
    torch.library.opcheck(triton_backend.operators.noise, noise_args, test_utils=CHECKS)
    torch.library.opcheck(
        triton_backend.operators.noise_out, (torch.empty_like(x), *noise_args), test_utils=CHECKS
    )
    torch.library.opcheck(triton_backend.operators.normal, (x, step, KEY, ids), test_utils=CHECKS)
