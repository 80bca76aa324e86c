"""Knowledge inside the model: concept embeddings, attention to them, and the disease table.

The paper attends from H_i to k concepts, A_med = softmax(H_i Q (K R)^T / sqrt(d_k)). Concepts
here are the diseases and findings of an ontology, so the attention of some of them (the `Signs` of a task)
can be supervised, and what it says becomes evidence that a disease-phenotype table can use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robustmdiff.data.kinds.text import Texts
from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.nn import GraphAttention
from robustmdiff.nn.dropout import of_others
from robustmdiff.ops import Graph

CORRECTION_SCALE = 5.0


class ConceptEmbedding(nn.Module):
    """K [k, d_h]: each name as the text encoder reads it (the mean of its tokens) and a vector of the
    concept's own, then one round of attention over the ontology's edges.

    `read` turns a name into token ids with the text modality's tokenizer; without one, every concept
    starts from its own vector alone.
    """

    name_ids: Tensor
    name_lengths: Tensor

    def __init__(
        self, concepts: ConceptTable, d_h: int, heads: int, read: Callable[[str], Sequence[int]] | None
    ) -> None:
        super().__init__()
        k = len(concepts)
        ids = [list(read(name)) if read else [] for name in concepts.name]
        self.register_buffer("name_ids", torch.tensor([t for i in ids for t in i], dtype=torch.long))
        self.register_buffer("name_lengths", torch.tensor([len(i) for i in ids], dtype=torch.long))
        self.own = nn.Parameter(torch.randn(k, d_h) * d_h**-0.5)
        self.norm = nn.LayerNorm(d_h)
        graph = Graph.from_edges(
            torch.from_numpy(concepts.source),
            torch.from_numpy(concepts.target),
            k,
            torch.from_numpy(concepts.relation),
        )
        self.graph_fields = graph._fields
        for name, value in zip(graph._fields, graph, strict=True):
            self.register_buffer(f"graph_{name}", value)
        self.attend = GraphAttention(d_h, heads, relations=max(len(concepts.relations), 1))

    def forward(self, text: nn.Module | None) -> Tensor:
        """text: the encoder of a text modality (see `diagnosis.encoders`), None where there is none."""
        K: Tensor = self.own
        if text is not None and len(self.name_ids):
            K = K + self._names(text)
        graph = Graph(*(getattr(self, f"graph_{name}") for name in self.graph_fields))
        return self.attend(self.norm(K), graph)

    def _names(self, text: nn.Module) -> Tensor:
        rows = torch.arange(len(self.name_lengths), device=self.name_lengths.device)
        with of_others(len(rows)):
            tokens, lengths = text(Texts(rows, self.name_ids, self.name_lengths))
        total = torch.zeros_like(self.own).index_add(0, rows.repeat_interleave(lengths), tokens)
        return total / lengths[:, None]


class Evidence(nn.Module):
    """What each modality's tokens say about each sign (`Signs`), as a log-likelihood ratio.

    Sign f asks the tokens x_t of a modality with its row of K E, and reads what it asked for:

        a_tf = x_t Q (K_f E)^T / sqrt(d_k),   lambda_f = sum_t softmax_t(a_tf) x_t V (K_f E)^T + b_if

    Readings of different modalities are independent given the sign, so evidence adds up over
    whatever is present, and an absent modality adds nothing: Bayes' rule, not an imputation.
    """

    def __init__(self, d_h: int, modalities: int, signs: int) -> None:
        super().__init__()
        self.E = nn.Linear(d_h, d_h, bias=False)
        self.norm = nn.LayerNorm(d_h)
        self.Q = nn.Linear(d_h, d_h, bias=False)
        self.V = nn.Linear(d_h, d_h, bias=False)
        self.b = nn.Parameter(torch.zeros(modalities, signs))

    def said(self, tokens: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
        """a_tf and x_t V (K_f E)^T of each token [..., d_h] and sign: [..., F] both."""
        KE, x = self.E(K), self.norm(tokens)
        return self.Q(x) @ KE.T * KE.shape[-1] ** -0.5, self.V(x) @ KE.T

    def forward(self, tokens: Tensor, segments: Tensor, K: Tensor) -> Tensor:
        """tokens [T, d_h], each of one segment, segments [B, M, 2], K [F, d_h] of the signs -> [B, M, F].
        Rows of absent modalities hold b and mean nothing."""
        (B, M), F = segments.shape[:2], len(K)
        a, value = self.said(tokens, K)  # [T, F]
        start, length = segments.view(B * M, 2).long().unbind(-1)
        order = start.argsort()
        owner = torch.repeat_interleave(order, length[order], output_size=len(tokens))  # [T], the segment
        top = torch.full((B * M, F), -torch.inf, device=a.device, dtype=a.dtype)
        top = top.scatter_reduce(0, owner[:, None].expand_as(a), a.detach(), "amax")
        weight = (a - top[owner]).exp()
        zero = torch.zeros(B * M, F, device=a.device, dtype=a.dtype)
        total = zero.index_add(0, owner, weight).clamp(min=1e-6)
        read = zero.index_add(0, owner, weight * value) / total
        return read.view(B, M, F) + self.b


class DiseaseTable(nn.Module):
    """log P(evidence | disease) from T_cf = P(sign | disease), up to a constant:

        sum_f log(1 + T_cf (exp(lambda_f) - 1))

    the exact likelihood of signs independent given the disease, known only through their
    log-likelihood ratios lambda_f.

    T starts from `given` [C, F]; where it is `learned`, a correction of its logit follows fast
    (CORRECTION_SCALE), as there is one number per entry.
    """

    prior: Tensor

    def __init__(self, given: Tensor, *, learned: bool = True) -> None:
        super().__init__()
        self.register_buffer("prior", given.logit())
        self.correction = nn.Parameter(torch.zeros_like(self.prior), requires_grad=learned)

    def T(self) -> Tensor:
        """P(sign | disease), float32 [C, F]."""
        return torch.sigmoid(self.prior + CORRECTION_SCALE * self.correction)

    def forward(self, evidence: Tensor) -> Tensor:
        """evidence [..., F] -> [..., C]."""
        T = self.T()
        ratio = evidence.clamp(-20, 20).exp() - 1
        return torch.log1p(T * ratio.unsqueeze(-2)).sum(-1)

    def findings(self, evidence: Tensor, probability: Tensor) -> Tensor:
        """P(finding | evidence) [..., F]: over the diseases, weighted by their probability [..., C]."""
        odds = evidence.unsqueeze(-2) + torch.logit(self.T())
        return (probability.unsqueeze(-1) * torch.sigmoid(odds)).sum(-2)
