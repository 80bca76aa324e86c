"""A concept bottleneck on the transformer: the diagnosis follows from findings, and from nothing else."""

from __future__ import annotations

from torch import Tensor

from robustmdiff.baselines.dropout_transformer import DropoutTransformer
from robustmdiff.baselines.heads import class_head
from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import Logits
from robustmdiff.diagnosis.losses import Losses, class_loss
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.refusal import Refusal


class Bottleneck(DropoutTransformer):
    """Each modality says the findings by itself; their logits, summed over what is visible, are the concepts
    of a linear class head (Koh et al. 2020, Concept Bottleneck Models, the sequential one: the head does not
    train what the concepts are read from). The encoders are trained as those of `DropoutTransformer` are,
    by the transformer's own diagnosis and by the findings.

    Raises Refusal for a task without findings.
    """

    def __init__(self, task: Task, config: ModelConfig) -> None:
        if not task.findings:
            raise Refusal("Bottleneck: the task's findings are none, expected at least one")
        super().__init__(task, config)
        self.diagnosis = class_head(len(task.findings), self.labels.log_prior(task.prevalence))

    def _logits(self, encoded: Encoded) -> Tensor:
        """-> [B, C]."""
        assert self.findings is not None
        H = encoded.H.masked_fill(~encoded.m[..., None], 0)
        concepts = (self.findings.alone(H) * encoded.m[..., None]).sum(1)  # [B, F]
        return self.diagnosis(concepts.detach())

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        """L_class: of the head and of the transformer, half each; L_find."""
        transformer = super().losses(encoded, batch, kept, weight)
        L_class = class_loss(self.labels, self._logits(encoded.keep(kept)), batch, weight)
        return transformer._replace(L_class=(L_class + transformer.L_class) / 2)

    def classify(self, encoded: Encoded) -> Logits:
        return Logits(self._logits(encoded))
