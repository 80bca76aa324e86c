from __future__ import annotations

import pytest
import torch

from robustmdiff.ops import knowledge_attention, knowledge_top
from tests.ops.refusal import refuses

Q, K, PRIOR = torch.randn(4, 3, 5), torch.randn(7, 5), torch.zeros(7)


def changed_prior(value: float) -> torch.Tensor:
    prior = PRIOR.clone()
    prior[2] = value
    return prior


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((Q[0], K), ValueError, r"q must be \[rows, heads, width >= 1\], got \[3, 5\]"),
        ((Q, K[:, :4]), ValueError, r"concepts must be \[k, 5\] like the width of q, got \[7, 4\]"),
        ((Q, K[:0]), ValueError, r"concepts has k = 0 rows, expected at least one concept"),
        ((Q, K.double()), TypeError, r"q and concepts must share .* got torch.float32 and torch.float64"),
        ((Q, K, PRIOR[:6]), ValueError, r"log_prior must be \[k\] = \[7\], got \[6\]"),
        ((Q, K, PRIOR.long()), TypeError, r"log_prior must be floating point, got torch.int64"),
        ((Q, K.to("meta")), ValueError, r"concepts is on meta, expected cpu like q"),
        ((Q, K, changed_prior(float("nan"))), ValueError, r"log_prior\[2\] is nan, expected a finite number"),
        ((Q, K, changed_prior(float("inf"))), ValueError, r"log_prior\[2\] is inf"),
    ],
)
def test_the_error_names_argument_value_and_expectation(args, error, message):
    refuses("knowledge_attention", lambda: knowledge_attention(*args, scale=1.0), error, message)


@pytest.mark.parametrize("n", [0, 8])
def test_top_wants_a_number_of_concepts_that_there_are(n):
    with pytest.raises(ValueError, match=rf"n is {n}, expected 1 to k = 7"):
        knowledge_top(Q, K, scale=1.0, n=n)
