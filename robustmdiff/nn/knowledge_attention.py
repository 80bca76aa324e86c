"""Attention to a table of concepts, with prevalence as a prior that may push either way."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.ops import knowledge_attention, knowledge_top


class KnowledgeAttention(nn.Module):
    """A_med K with A_med = softmax(H_i Q (K R)^T / sqrt(d_k) + s log pi), a head at a time.

    A_med is the knowledge attention of RobustMDiff, which has one head and no prior. Here the heads'
    readings A_med K R_h are joined by W_o (multi-head attention: Vaswani et al. 2017, section 3.2.2),
    and the log prevalence log pi is added to the logits (logit adjustment: Menon et al. 2021) with a
    learned, signed strength s per layer, 0 to begin with: a plain prior (s = 1) would push against
    rare diseases.

    d            width of H_i and of the result; heads divides it, d_k = d / heads.
    concept_d    width of K, by default d.
    log_prior    float [k]: log pi. NaN where unknown (takes the mean of the others), -inf where the
                 concept is absent (never used).

    R is folded into the query where that is cheaper (concept_d <= 2 d_k): one pass over K serves
    all heads. Otherwise K R is made once. Both give the same result.
    """

    log_prior: Tensor | None
    absent: Tensor | None

    def __init__(
        self, d: int, heads: int, *, concept_d: int | None = None, log_prior: Tensor | None = None
    ) -> None:
        super().__init__()
        if heads < 1 or d % heads:
            raise ValueError(f"KnowledgeAttention: heads is {heads}, expected a divisor of d = {d}")
        self.heads = heads
        self.d_k = d // heads
        self.concept_d = d if concept_d is None else concept_d
        self.Q = nn.Linear(d, d, bias=False)
        self.R = nn.Linear(self.concept_d, d, bias=False)
        self.W_o = nn.Linear(d, d, bias=False)
        absent = None
        if log_prior is not None:
            log_prior = log_prior.detach().float().clone()
            absent = log_prior == -torch.inf
            known = log_prior.isfinite()
            log_prior[~known] = log_prior[known].mean() if known.any() else 0.0
            self.strength = nn.Parameter(torch.zeros(1))  # not a scalar, which FSDP cannot shard
        self.register_buffer("log_prior", log_prior)
        self.register_buffer("absent", absent)

    @property
    def folds(self) -> bool:
        return self.concept_d <= 2 * self.d_k

    def prior(self) -> Tensor | None:
        """s log pi, [k]."""
        if self.log_prior is None or self.absent is None:
            return None
        return (self.strength * self.log_prior).masked_fill(self.absent, -torch.inf)

    def forward(self, H: Tensor, K: Tensor) -> Tensor:
        """A_med K, joined over the heads: H [N, d], K [k, concept_d] -> [N, d]; errors as in
        robustmdiff.ops.knowledge_attention."""
        q = self.Q(H).unflatten(-1, (self.heads, self.d_k))  # [N, heads, d_k]
        if self.folds:
            read = knowledge_attention(self._fold(q), K, self.prior(), scale=self.d_k**-0.5)  # A_med K
            R = self.R.weight.unflatten(0, (self.heads, self.d_k))
            read = torch.einsum("nhc,hdc->nhd", read, R)
        else:
            prior = self.prior()
            KR = self.R(self._present(K)).unflatten(-1, (self.heads, self.d_k))  # [k, heads, d_k]
            read = torch.cat(
                [
                    knowledge_attention(q[:, h : h + 1], KR[:, h], prior, scale=self.d_k**-0.5)
                    for h in range(self.heads)
                ],
                dim=1,
            )
        return self.W_o(read.flatten(1))

    def top(self, H: Tensor, K: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """The n concepts that each head of each row reads most: index int64 and weight [N, heads, n]."""
        q = self.Q(H).unflatten(-1, (self.heads, self.d_k))
        return knowledge_top(self._fold(q), K, self.prior(), scale=self.d_k**-0.5, n=n)

    def _fold(self, q: Tensor) -> Tensor:
        """q_h R_h^T [N, heads, concept_d], as q (K R)^T = (q R^T) K^T."""
        return torch.einsum("nhd,hdc->nhc", q, self.R.weight.unflatten(0, (self.heads, self.d_k)))

    def _present(self, K: Tensor) -> Tensor:
        return K if self.absent is None else K.masked_fill(self.absent[:, None], 0)
