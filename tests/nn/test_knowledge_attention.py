from __future__ import annotations

import pytest
import torch

from robustmdiff.nn import KnowledgeAttention

D, HEADS, N, CONCEPTS = 12, 3, 5, 17
NAN, INF = float("nan"), float("inf")


def layer(concept_d: int, log_prior: torch.Tensor | None = None) -> KnowledgeAttention:
    torch.manual_seed(0)
    made = KnowledgeAttention(D, HEADS, concept_d=concept_d, log_prior=log_prior).double()
    if log_prior is not None:
        torch.nn.init.constant_(made.strength, -0.7)
    return made


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(shape[0]))


def twin(module: KnowledgeAttention, H: torch.Tensor, K: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """The paper's formula, a head at a time, K R in full."""
    read = []
    for h in range(HEADS):
        rows = slice(4 * h, 4 * h + 4)
        KR = K @ module.R.weight[rows].T
        A = (H @ module.Q.weight[rows].T @ KR.T / 4**0.5 + prior).softmax(-1)
        read.append(A @ KR)
    return torch.cat(read, 1) @ module.W_o.weight.T


@pytest.mark.parametrize(("concept_d", "folds"), [(7, True), (8, True), (9, False)])
@pytest.mark.parametrize("with_prior", [False, True])
def test_the_layer_is_the_formula_folded_or_not(concept_d, folds, with_prior):
    log_pi = draw(CONCEPTS) if with_prior else None
    module, H, K = layer(concept_d, log_pi), draw(N, D), draw(CONCEPTS, concept_d).requires_grad_()
    assert module.folds == folds
    prior = torch.zeros(CONCEPTS) if log_pi is None else module.strength * log_pi.float().double()
    ours, theirs = module(H, K), twin(module, H, K, prior)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(ours)
    for name, x in [*module.named_parameters(), ("K", K)]:
        gradients = [torch.autograd.grad((y * weight).sum(), x, retain_graph=True)[0] for y in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11, msg=name)


def test_the_prior_begins_neutral_and_may_turn_either_way():
    log_pi = torch.tensor([-1.0, -5.0])
    module = KnowledgeAttention(D, HEADS, log_prior=log_pi)
    assert (module.prior() == 0).all()
    torch.nn.init.constant_(module.strength, -2.0)
    assert module.prior().tolist() == [2.0, 10.0]  # the rare one ahead


def test_an_unknown_prevalence_takes_the_mean_of_the_known():
    module = KnowledgeAttention(D, HEADS, log_prior=torch.tensor([-1.0, NAN, -4.0, -INF]))
    torch.nn.init.ones_(module.strength)
    assert module.prior().tolist() == [-1.0, -2.5, -4.0, -INF]


@pytest.mark.parametrize("concept_d", [7, 20], ids=["folded", "not-folded"])
def test_an_absent_concept_never_reaches_a_weight(concept_d):
    log_pi = draw(CONCEPTS)
    log_pi[[2, 9]] = -INF
    found = []
    for poison in (0.0, NAN):
        module, K = layer(concept_d, log_pi), draw(CONCEPTS, concept_d)
        K[[2, 9]] = poison
        K.requires_grad_()
        out = module(draw(N, D), K)
        out.square().sum().backward()
        found.append([out.detach(), K.grad, *(p.grad for p in module.parameters())])
    for clean, poisoned in zip(*found, strict=True):
        assert torch.isfinite(clean).all()
        assert torch.equal(clean, poisoned)


@pytest.mark.parametrize("concept_d", [7, 20])
def test_top_gives_the_concepts_that_the_layer_reads(concept_d):
    module, H, K = layer(concept_d, draw(CONCEPTS)), draw(N, D), draw(CONCEPTS, concept_d)
    q = module.Q(H).view(N, HEADS, 4)
    KR = module.R(K).view(CONCEPTS, HEADS, 4)
    A = (torch.einsum("nhd,khd->nhk", q, KR) / 2 + module.prior()).softmax(-1)
    index, weight = module.top(H, K, 3)
    assert torch.equal(index, A.topk(3).indices)
    torch.testing.assert_close(weight, A.topk(3).values)


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="heads is 5, expected a divisor of d = 12"):
        KnowledgeAttention(12, 5)
