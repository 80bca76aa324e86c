import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustmdiff.evaluation.retrieval import retrieval


def defined(a, b, k, seed):
    """By sorting, query for query, equals in an order of lot: the mean of many lots is what is meant."""
    rng = np.random.default_rng(seed)
    n, ranks, hits = len(a), [], []
    for queries, answers in ((a, b), (b, a)):
        for i in range(n):
            scores = [float(queries[i] @ x) for x in answers]
            for _ in range(40):
                order = sorted(range(n), key=lambda j: (-scores[j], rng.random()))
                place = order.index(i)
                ranks.append(1 - place / (n - 1))
                hits.append(place < k)
    return np.mean(ranks), np.mean(hits)


@given(n=st.integers(2, 12), d=st.integers(1, 4), seed=st.integers(0, 50))
def test_it_is_the_definition(n, d, seed):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randint(-2, 3, (2, n, d), generator=g).float()  # many equals
    found = retrieval(a, b)
    rank, at_1 = defined(a.numpy(), b.numpy(), 1, seed)
    assert found.rank == pytest.approx(rank, abs=0.12)  # 5 standard errors of at least 160 lots
    assert found.at_1 == pytest.approx(at_1, abs=0.2)
    _, at_10 = defined(a.numpy(), b.numpy(), 10, seed)
    assert found.at_10 == pytest.approx(at_10, abs=0.2)
    assert found.patients == n


def test_without_equals_it_is_exact():
    """Of three patients, the second and third are taken for each other."""
    a = torch.eye(3)
    b = torch.tensor([[1.0, 0, 0], [0, 0.6, 0.8], [0, 0.8, 0.6]])
    found = retrieval(a, b)
    assert found.rank == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found.at_1 == pytest.approx(1 / 3)
    assert found.at_10 == 1


def test_the_same_vectors_find_each_other_and_a_stranger_is_at_chance():
    a = torch.nn.functional.normalize(
        torch.randn(200, 16, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    assert retrieval(a, a)[:3] == (1, 1, 1)
    nothing = retrieval(a, torch.ones(200, 16))
    assert nothing == pytest.approx(nothing.chance)
    assert nothing.chance == (0.5, 1 / 200, 10 / 200, 200)
    assert retrieval(a[:4], a[:4]).chance.at_10 == 1


@pytest.mark.parametrize("shapes", [((1, 3), (1, 3)), ((4, 3), (5, 3)), ((4,), (4,))])
def test_what_cannot_be_asked_is_refused(shapes):
    with pytest.raises(ValueError, match=r"a is \[.*expected both \[n >= 2, d\]"):
        retrieval(*map(torch.zeros, shapes))
