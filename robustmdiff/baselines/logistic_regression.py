"""Logistic regression on the panels of values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from robustmdiff.baselines.structured import Structured
from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.encoders.config import ModelConfig

ITERATIONS = 1000


class LogisticRegression(Structured):
    """scikit-learn's, on cells of which those that are not there are imputed by the training median, and on
    an indicator for each cell that says so (van Buuren 2018, Flexible Imputation of Missing Data, 1.3.7), all
    standardised. It minimises the weighted mean of the cross entropy + l2 |w|^2 / 2.

    Kept are the coefficients for cells as they are: scores = [imputed, missing] W^T + b.
    """

    median: Tensor
    W: Tensor
    b: Tensor

    def __init__(self, task: Task, config: ModelConfig, l2: float = 1e-3) -> None:
        super().__init__(task, config)
        self.l2 = l2
        D, C = len(self.columns), len(task.classes)
        self.register_buffer("median", torch.zeros(D, dtype=torch.float64))
        self.register_buffer("W", torch.zeros(C, 2 * D, dtype=torch.float64))
        self.register_buffer("b", torch.zeros(C, dtype=torch.float64))

    def features(self, x: Tensor) -> Tensor:
        """x [n, D] with NaN -> [n, 2 D]."""
        missing = x.isnan()
        return torch.cat([torch.where(missing, self.median, x), missing.to(x.dtype)], dim=-1)

    def scores(self, x: Tensor) -> Tensor:
        return self.features(x) @ self.W.T + self.b

    def learn(self, shown: Iterable[tuple[Batch, Tensor, Tensor]]) -> None:
        from sklearn.linear_model import LogisticRegression as Classifier

        table = self.table(shown)
        measured = np.flatnonzero(~np.isnan(table.x).all(0))
        median = torch.from_numpy(np.nanmedian(table.x[:, measured], axis=0))
        self.median[torch.from_numpy(measured)] = median.to(self.median)
        for classes, x, y, weight in self.questions(table):
            z = self.features(torch.from_numpy(x).to(self.median)).cpu().numpy()
            mean, deviation = z.mean(0), z.std(0)
            deviation[deviation == 0] = 1.0
            fitted = Classifier(C=1 / (self.l2 * weight.sum()), max_iter=ITERATIONS)
            fitted.fit((z - mean) / deviation, y, sample_weight=weight)
            W = fitted.coef_ / deviation
            self.W[classes] = torch.from_numpy(W).to(self.W)
            self.b[classes] = torch.from_numpy(fitted.intercept_ - W @ mean).to(self.b)
