"""What models of tables are given: a row of cells for each patient, and nothing where there is nothing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmdiff.data.batch import Batch
from robustmdiff.data.kinds.values import Panels
from robustmdiff.data.modality import Modality
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import Logits
from robustmdiff.diagnosis.fitted import FittedModel
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.tensors import tensors
from robustmdiff.refusal import Refusal


class Table(NamedTuple):
    """Rows of what patients were shown with, of whom anything was visible: x float64 [n, D] with NaN where a
    cell is not there, y int64 [n, C] and whether it is known, bool [n, C], weight float64 [n]; and how many
    patients they are of."""

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    known: NDArray[np.bool_]
    weight: NDArray[np.float64]
    patients: int


class Question(NamedTuple):
    """What a classifier learns: y int64 [n] from x. It gives a score for each of `classes`; of two classes
    that exclude each other the first has none, that is 0."""

    classes: list[int]
    x: NDArray[np.float64]
    y: NDArray[np.int64]
    weight: NDArray[np.float64]


class Structured(FittedModel):
    """Reads panels of values: a column for each number and each category, NaN where a cell was not measured
    or its modality is hidden. Pictures and texts are invisible to it, present or not.

    Raises Refusal for a task without panels.
    """

    columns: Tensor
    log_prior: Tensor
    learned: Tensor

    def __init__(self, task: Task, config: ModelConfig) -> None:
        widths = [width(modality) for modality in task.modalities]
        if not any(widths):
            raise Refusal(
                f"{type(self).__name__}: modalities are {', '.join(task.modality_names)}, expected one of "
                "kind 'values' among them"
            )
        super().__init__(task, config, encoders=None)
        self.width = max(widths)
        columns = [i * self.width + j for i, each in enumerate(widths) for j in range(each)]
        self.register_buffer("columns", torch.tensor(columns), persistent=False)  # of H, flattened
        prior = self.labels.log_prior(task.prevalence).double()
        self.register_buffer("log_prior", prior, persistent=False)
        self.register_buffer("learned", torch.zeros(len(task.classes), dtype=torch.bool))

    @abstractmethod
    def scores(self, x: Tensor) -> Tensor:
        """x float64 [B, D] with NaN -> logits float64 [B, C] of the classes that were learned."""

    def encode(self, batch: Batch) -> Encoded:
        """H float64 [B, M, width]: the cells of each panel, NaN where there is none."""
        batch = tensors(batch, self.columns.device)
        (B, M), W = batch.presence.shape, self.width
        H = torch.full((B, M, W), torch.nan, dtype=torch.float64, device=self.columns.device)
        panel = torch.tensor([width(m) > 0 for m in self.task.modalities], device=H.device)
        for i, modality in enumerate(self.task.modalities):
            panels = batch.inputs[modality.name]
            if isinstance(panels, Panels):
                H[panels.rows, i, : width(modality)] = cells(modality, panels)
        rows = torch.arange(B * M, device=H.device).view(B, M)
        segments = torch.stack([rows, (batch.presence & panel).long()], dim=-1).to(torch.int32)
        return Encoded(tokens=H.view(B * M, W), segments=segments, H=H)

    def rows(self, encoded: Encoded) -> Tensor:
        """float64 [B, D], NaN where nothing is visible."""
        return encoded.H.masked_fill(~encoded.m[..., None], torch.nan).flatten(1)[:, self.columns]

    def classify(self, encoded: Encoded) -> Logits:
        """A class of which nothing could be learned has its prevalence."""
        scores = self.scores(self.rows(encoded))
        if self.labels.exclusive:
            scores = scores.masked_fill(~self.learned, -torch.inf).log_softmax(-1)
        return Logits(scores.where(self.learned, self.log_prior).float())

    def table(self, shown: Iterable[tuple[Batch, Tensor, Tensor]]) -> Table:
        x, y, known, weight = [], [], [], []
        ids: set[str] = set()
        for batch, kept, w in shown:
            encoded = self.encode(batch).keep(kept)
            seen = encoded.m.any(1)
            x.append(self.rows(encoded)[seen])
            y.append(batch.label[seen] > 0.5)
            known.append(batch.label_known[seen].bool())
            weight.append(w[seen].double())
            ids |= {id for id, one in zip(batch.ids, seen.tolist(), strict=True) if one}
        whole = [torch.cat(parts).cpu().numpy() for parts in (x, y, known, weight)]
        return Table(whole[0], whole[1].astype(np.int64), whole[2], whole[3], len(ids))

    def questions(self, table: Table) -> Iterator[Question]:
        """One of all classes or, where several may hold, one of each; none where nothing can be learned."""
        x, y, known, weight, _ = table
        asked: list[tuple[Any, Any, Any, int | None]]
        if self.labels.exclusive:
            own = weight[np.arange(len(y)), y.argmax(1)]
            asked = [(known.all(1) & y.any(1), y.argmax(1), own, None)]
        else:
            asked = [(known[:, c], y[:, c], weight[:, c], c) for c in range(y.shape[1])]
        for rows, answer, own, c in asked:
            there = np.unique(answer[rows]).tolist()
            if len(there) < 2 or np.isnan(x[rows]).all():
                continue
            of = there if c is None else [c]
            self.learned[of] = True
            scored = of[1:] if len(there) == 2 and c is None else of
            yield Question(scored, x[rows], answer[rows], own[rows])


def width(modality: Modality) -> int:
    """Columns of a panel; 0 of what is none."""
    return sum(max(1, len(field.categories)) for field in modality.fields)


def cells(modality: Modality, panels: Panels) -> Tensor:
    """float64 [n, width]: numbers as they are, categories one-hot, NaN where a cell was not measured."""
    value = panels.value.double().masked_fill(~panels.present, torch.nan)
    parts = []
    for cell, field in zip(value.split(1, dim=1), modality.fields, strict=True):
        if field.categories:
            category = torch.arange(len(field.categories), device=cell.device)
            cell = (cell == category).double().masked_fill(cell.isnan(), torch.nan)
        parts.append(cell)
    return torch.cat(parts, dim=1)
