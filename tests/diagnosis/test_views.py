from __future__ import annotations

import itertools

import torch

from robustmdiff.diagnosis.views import VIEWS, between, fullest, held_by, most_frequent


def rows(*words: str) -> torch.Tensor:
    return torch.tensor([[letter == "1" for letter in word] for word in words])


def test_the_most_frequent_come_first():
    views = most_frequent(rows("110", "011", "011", "100", "011", "110"))
    assert views.shape == (VIEWS, 3)
    assert torch.equal(views[:3], rows("011", "110", "100"))
    assert not views[3:].any()


def test_of_more_than_can_be_remembered_the_rarest_are_forgotten():
    every = torch.tensor(list(itertools.product([False, True], repeat=7)))
    views = most_frequent(torch.cat([every, every[-VIEWS:]]))
    assert {tuple(v) for v in views.tolist()} == {tuple(v) for v in every[-VIEWS:].tolist()}


def test_of_a_view_only_what_is_asked_for_is_taken():
    views = rows("110", "111", "001")
    m, asked = rows("100", "100", "100", "001"), rows("010", "011", "000", "100")
    assert torch.equal(fullest(views, m, asked), rows("110", "111", "100", "101"))
    assert torch.equal(fullest(views[:1], m[:2], asked[:2]), rows("110", "110"))
    assert torch.equal(fullest(views[:1], rows("100"), rows("001")), rows("100"))  # never together


def test_the_fullest_holds_what_is_there():
    views = rows("110", "011", "111", "000")
    assert held_by(views, rows("010", "101")).tolist() == [[True] * 3 + [False], [False, False, True, False]]
    assert torch.equal(fullest(views[:2], rows("100", "010", "101")), rows("110", "110", "101"))


def test_a_teachers_view_lies_between_what_is_kept_and_what_is_there():
    g = torch.Generator().manual_seed(0)
    m = torch.rand(400, 5, generator=g) < 0.7
    kept = m & (torch.rand(400, 5, generator=g) < 0.5)
    u = torch.rand(400, 6, generator=g)
    view = between(m, kept, u)
    assert ((view | ~kept) & (m | ~view)).all()
    everything = u[:, 0] < 0.5
    assert torch.equal(view[everything], m[everything])
    assert torch.equal(view[~everything], (m & (kept | (u[:, 1:] < 0.5)))[~everything])
    assert not torch.equal(view, m)
