"""The definition of the noise: known answers, an independent version, and its distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robustmdiff.ops.philox import philox_key, philox_normal, philox_row_words, philox_words

# Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, answer.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def as_tensors(values: list[int]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(value) for value in values)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_words_are_those_of_random123(counter, key, answer):
    words = philox_words(as_tensors(counter), as_tensors(key))
    assert [int(word) for word in words] == answer


def plain_philox(counter: list[int], key: list[int]) -> list[int]:
    """Python integers, straight from the paper."""
    for _ in range(10):
        product0, product1 = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            (product1 >> 32) ^ counter[1] ^ key[0],
            product1 % 2**32,
            (product0 >> 32) ^ counter[3] ^ key[1],
            product0 % 2**32,
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


def test_counter_and_key_are_laid_out_as_the_contract_says():
    seed, offset, rows, steps = 2**63 + 12345678901, 2**32 + 7, [5, 2**32 - 1], [3, 2**31 + 3]
    key = philox_key(seed, offset)
    words = philox_row_words(key, torch.tensor(steps), torch.tensor(rows), 11)
    for b in range(2):
        for e in range(11):
            expected = plain_philox([e // 4, rows[b], steps[b], 7], [seed % 2**32, seed >> 32])[e % 4]
            assert int(words[b, e]) == expected


def test_normals_follow_box_and_muller():
    key, step = philox_key(3, 1), torch.tensor([2])
    words = philox_row_words(key, step, None, 8)[0].numpy().astype(np.uint32)
    z = philox_normal(key, step, None, 7)[0]
    for pair in range(4):
        u = ((int(words[2 * pair]) >> 8) + 1) / 2**24
        a = math.pi * int(words[2 * pair + 1].astype(np.int32)) / 2**31
        expected = [math.sqrt(-2 * math.log(u)) * math.cos(a), math.sqrt(-2 * math.log(u)) * math.sin(a)]
        for i, value in enumerate(expected):
            if 2 * pair + i < 7:
                assert float(z[2 * pair + i]) == pytest.approx(value, abs=1e-14)


def test_normals_are_normal():
    n = 400_000
    z = philox_normal(philox_key(11), torch.tensor([0, 1]), None, n)
    assert z.mean().abs() < 4 / math.sqrt(2 * n)
    assert (z.var() - 1).abs() < 4 * math.sqrt(2 / (2 * n))
    share_beyond_2 = float((z.abs() > 2).double().mean())
    assert share_beyond_2 == pytest.approx(0.0455, abs=4 * math.sqrt(0.0455 / (2 * n)))
    assert float((z[0] * z[1]).mean().abs()) < 4 / math.sqrt(n)  # steps are independent


def test_key_takes_any_64_bits():
    assert philox_key(2**64 - 1).tolist() == [-1, 0]
    assert philox_key(-1).tolist() == [-1, 0]
