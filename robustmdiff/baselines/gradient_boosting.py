"""Gradient boosted trees on the panels of values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmdiff.baselines.structured import Structured
from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.encoders.config import ModelConfig

CHECKED = 1000  # rows on which the copied trees must say what scikit-learn says
ROUNDING = 1e-9  # of a score, a sum of hundreds of float64


class GradientBoosting(Structured):
    """scikit-learn's HistGradientBoostingClassifier (after LightGBM, Ke et al. 2017): at each split the cells
    that are not there go the way that was better for them in training. The defaults are scikit-learn's.

    trees          of each class, `max_iter` there
    leaves         at most, of a tree
    smallest_leaf  patients: so many times the rows that a patient is shown in, one for each epoch

    Kept are the trees as arrays, node by node: what a model folder holds is weights, not a program to run.
    """

    root: Tensor
    feature: Tensor
    threshold: Tensor
    missing_left: Tensor
    branches: Tensor
    value: Tensor
    base: Tensor

    def __init__(
        self,
        task: Task,
        config: ModelConfig,
        trees: int = 100,
        leaves: int = 31,
        learning_rate: float = 0.1,
        l2: float = 0.0,
        smallest_leaf: int = 20,
    ) -> None:
        super().__init__(task, config)
        self.leaves, self.smallest_leaf = leaves, smallest_leaf
        self.settings: dict[str, Any] = {
            "max_iter": trees,
            "max_leaf_nodes": leaves,
            "learning_rate": learning_rate,
            "l2_regularization": l2,
        }
        C, T, N = len(task.classes), trees, 2 * leaves - 1
        places = torch.arange(C * T * N).view(C, T, N)  # a node that leads to itself is a leaf
        self.register_buffer("root", places[..., 0].clone(), persistent=False)
        self.register_buffer("branches", torch.stack([places, places], dim=-1))  # left, right
        self.register_buffer("feature", torch.zeros(C, T, N, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(C, T, N, dtype=torch.float64))
        self.register_buffer("missing_left", torch.zeros(C, T, N, dtype=torch.bool))
        self.register_buffer("value", torch.zeros(C, T, N, dtype=torch.float64))
        self.register_buffer("base", torch.zeros(C, dtype=torch.float64))

    def scores(self, x: Tensor) -> Tensor:
        return self.base + self._grown(x)

    def _grown(self, x: Tensor) -> Tensor:
        """The sum of the trees of each class: x [B, D] -> [B, C]."""
        feature, threshold = self.feature.view(-1), self.threshold.view(-1)
        missing_left, branches = self.missing_left.view(-1), self.branches.view(-1, 2)
        node = self.root.view(1, -1).expand(len(x), -1)  # [B, C T]
        for _ in range(self.leaves - 1):  # no tree is deeper
            cell = x.gather(1, feature[node])
            left = torch.where(cell.isnan(), missing_left[node], cell <= threshold[node])
            below = torch.where(left, branches[node, 0], branches[node, 1])
            if torch.equal(below, node):
                break
            node = below
        return self.value.view(-1)[node].view(len(x), *self.root.shape).sum(-1)

    def learn(self, shown: Iterable[tuple[Batch, Tensor, Tensor]]) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        table = self.table(shown)
        smallest = round(self.smallest_leaf * len(table.x) / max(table.patients, 1))
        for classes, x, y, weight in self.questions(table):
            # Rows of one patient would stand on both sides of the split that early stopping makes.
            fitted = HistGradientBoostingClassifier(
                min_samples_leaf=smallest, early_stopping=False, random_state=0, **self.settings
            )
            measured = np.flatnonzero(~np.isnan(x).all(0))  # it takes no column that is empty
            fitted.fit(x[:, measured], y, sample_weight=weight)
            for t, of_classes in enumerate(fitted._predictors):
                for c, tree in zip(classes, of_classes, strict=True):
                    self._plant(c, t, tree.nodes, measured)
            expected = fitted.decision_function(x[:CHECKED, measured])
            self._settle(classes, x[:CHECKED], expected.reshape(-1, len(classes)))

    def _plant(self, c: int, t: int, nodes: NDArray[Any], column: NDArray[np.int64]) -> None:
        """Copies one tree, whose features are columns of x. scikit-learn has no public name for its nodes:
        `_settle` checks what was read."""
        n, first = len(nodes), int(self.root[c, t])
        inner = nodes["is_leaf"] == 0
        for side, name in enumerate(("left", "right")):
            below = np.where(inner, nodes[name], np.arange(n)).astype(np.int64)
            self.branches[c, t, :n, side] = torch.from_numpy(below).to(self.branches) + first
        self.feature[c, t, :n] = torch.from_numpy(column[nodes["feature_idx"]]).to(self.feature)
        for own, name in (
            (self.threshold, "num_threshold"),
            (self.missing_left, "missing_go_to_left"),
            (self.value, "value"),
        ):
            own[c, t, :n] = torch.from_numpy(nodes[name].copy()).to(own)

    def _settle(self, classes: list[int], x: NDArray[np.float64], scores: NDArray[np.float64]) -> None:
        """Takes the score that the trees start from; RuntimeError where they do not give these of x."""
        expected = torch.from_numpy(scores).to(self.base)
        base = expected - self._grown(torch.from_numpy(x).to(self.base))[:, classes]
        self.base[classes] = base[0]
        if (base - base[0]).abs().max() > ROUNDING * expected.abs().max().clamp(min=1):
            import sklearn

            raise RuntimeError(f"scikit-learn {sklearn.__version__} keeps its trees otherwise than was read")
