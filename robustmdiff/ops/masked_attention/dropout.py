"""Which attention weights dropout keeps: a Philox draw for each (query row, head, key row)."""

from __future__ import annotations

from torch import Tensor

from robustmdiff.ops.philox import philox_words

_LOW = 0xFFFFFFFF


def kept(key: Tensor, q_row: Tensor, head: Tensor, k_row: Tensor, dropout_p: float) -> Tensor:
    """bool, broadcast over q_row, head and k_row (int64, rows of the flat axes): u >= dropout_p.

    Counter (k_row // 4, q_row, head, offset); word k_row mod 4 gives u = (word >> 8) / 2^24.
    """
    seed, offset = key[0], key[1]
    counter = (k_row >> 2) & _LOW, q_row & _LOW, head, offset & _LOW
    words = philox_words(counter, (seed & _LOW, (seed >> 32) & _LOW))
    word, which = words[0], k_row & 3
    for j in (1, 2, 3):
        word = word.where(which != j, words[j])
    return (word >> 8) >= dropout_p * 2**24
