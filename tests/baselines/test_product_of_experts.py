from __future__ import annotations

import pytest
import torch

from robustmdiff.baselines.product_of_experts import ProductOfExperts
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.task import Task
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded

D, M = 6, 3


@pytest.fixture
def model():
    task = Task(
        tuple(Modality(f"m{i}", "values", fields=(Field("x"),)) for i in range(M)), ("a", "b"), (0.3, 0.7)
    )
    torch.manual_seed(0)
    model = ProductOfExperts(task, ModelConfig(d_h=D, heads=2)).double().eval()
    with torch.no_grad():
        model.b.normal_()
        model.head.weight.normal_()
    return model


def encoded(present):
    m = torch.tensor(present)
    H = torch.randn(len(m), M, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows = torch.arange(len(m) * M).view(len(m), M)
    return Encoded(H.view(-1, D), torch.stack([rows, m.long()], -1).int(), H)


def test_the_product_is_that_of_the_densities(model):
    """log N(z; 0, 1) + sum_i log N(z; mu_i, 1 / T_i) - log N(z; mu, 1 / T) is the same number for every z."""
    view = encoded([[1, 1, 1], [1, 0, 1], [0, 1, 0]])
    mu, T = model.product(view)
    experts = [
        torch.distributions.Normal(
            view.H[:, i] @ model.W[0, i] + model.b[0, i],
            torch.nn.functional.softplus(view.H[:, i] @ model.W[1, i] + model.b[1, i]).rsqrt(),
        )
        for i in range(M)
    ]
    z = torch.linspace(-3, 3, 17, dtype=torch.float64)[:, None, None]
    prior = torch.distributions.Normal(torch.zeros(()).double(), 1.0)
    left = prior.log_prob(z).expand(17, 3, D).clone()
    for i, expert in enumerate(experts):
        left += expert.log_prob(z) * view.m[:, i, None]
    difference = left - torch.distributions.Normal(mu, T.rsqrt()).log_prob(z)
    torch.testing.assert_close(difference, difference[:1].expand_as(difference), rtol=1e-10, atol=1e-10)


def test_nothing_visible_leaves_the_prior(model):
    mu, T = model.product(encoded([[0, 0, 0]]))
    assert torch.equal(mu, torch.zeros_like(mu))
    assert torch.equal(T, torch.ones_like(T))


def test_more_modalities_make_it_surer(model):
    _, few = model.product(encoded([[1, 0, 0]]))
    _, more = model.product(encoded([[1, 1, 0]]))
    assert (more > few).all()
