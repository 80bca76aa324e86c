from __future__ import annotations

import pytest
import torch

from robustmdiff.forecast.contract import Seen
from robustmdiff.forecast.head import FullViewHead
from robustmdiff.labels import Exclusive, Independent
from robustmdiff.ops import philox_key


def too_sure(n: int, labels, seed: int):
    """A model that says twice the logit; what it will say once it sees everything is the truth."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(n, 2, generator=g)
    logits = 2 * torch.cat([y, -y.sum(1, keepdim=True)], dim=1)
    m = torch.rand(n, 4, generator=g) < 0.5
    return (
        Seen(y, m, torch.zeros(n, 4, 0), labels.probability(logits)),
        logits,
        labels.probability(logits / 2),
    )


@pytest.mark.parametrize("labels", [Exclusive(), Independent()], ids=["one-label", "many-labels"])
def test_it_learns_what_the_full_view_will_say(labels):
    seen, logits, target = too_sure(700, labels, seed=1)
    head = FullViewHead(2, 4, 3, labels)
    assert torch.equal(head(seen, logits), logits)  # before: what the model says
    head.fit(seen, logits, target, torch.arange(700), philox_key(2))
    seen, logits, target = too_sure(300, labels, seed=3)
    with torch.no_grad():
        found = labels.probability(head(seen, logits))
    before, after = ((p - target).abs().mean() for p in (seen.p, found))
    assert after < before / 4
    T = head.log_T.exp()
    assert (T[1:4] > 1.05).all()  # a good part of it is the temperature


def test_the_key_decides():
    seen, logits, target = too_sure(50, Exclusive(), seed=1)
    found = []
    for key in (1, 1, 2):
        head = FullViewHead(2, 4, 3, Exclusive())
        head.fit(seen, logits, target, torch.arange(50), philox_key(key))
        found.append(head(seen, logits))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
