from __future__ import annotations

import pytest
import torch

from robustmdiff.forecast.contract import Pairs, Seen
from robustmdiff.forecast.head import FullViewHead
from robustmdiff.labels import Exclusive, Independent
from robustmdiff.ops import philox_key


def too_sure(n: int, labels, seed: int):
    """A model that says twice the logit; what it will say once it sees everything is the truth. One patient
    in seven watches."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(n, 2, generator=g)
    logits = 2 * torch.cat([y, -y.sum(1, keepdim=True)], dim=1)
    m = torch.rand(n, 4, generator=g) < 0.5
    evidence, target, who = torch.zeros(n, 4, 0), labels.probability(logits / 2), torch.arange(n)
    seen = Seen(y, m, evidence, labels.probability(logits))
    pairs = Pairs(seen, torch.ones_like(m), y, evidence, target, target >= 0, who, who % 7 == 6)
    return pairs, logits, target


@pytest.mark.parametrize("labels", [Exclusive(), Independent()], ids=["one-label", "many-labels"])
def test_it_learns_what_the_full_view_will_say(labels):
    pairs, logits, target = too_sure(700, labels, seed=1)
    head = FullViewHead(2, 4, 3, labels)
    assert torch.equal(head(pairs.seen, logits), logits)  # before: what the model says
    head.fit(pairs, logits, target, philox_key(2))
    pairs, logits, target = too_sure(300, labels, seed=3)
    with torch.no_grad():
        found = labels.probability(head(pairs.seen, logits))
    before, after = ((p - target).abs().mean() for p in (pairs.seen.p, found))
    assert after < before / 4
    T = head.log_T.exp()
    assert (T[1:4] > 1.05).all()  # a good part of it is the temperature


def test_the_key_decides():
    pairs, logits, target = too_sure(50, Exclusive(), seed=1)
    found = []
    for key in (1, 1, 2):
        head = FullViewHead(2, 4, 3, Exclusive())
        head.fit(pairs, logits, target, philox_key(key))
        found.append(head(pairs.seen, logits))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
