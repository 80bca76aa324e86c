"""Random numbers that depend on the patient and the training step alone, not on the batch, the process or
the order: two processes draw what one does, and a run that resumes draws it again."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustmdiff.ops.philox import philox_normal, philox_row_words


class PatientNoise(NamedTuple):
    """patient int64 [B] (`nn.dropout.patient_numbers`), step int64 []; a stream is one use of the numbers."""

    patient: Tensor
    step: Tensor

    def key(self, stream: int) -> Tensor:
        """The Philox key, int64 [2]."""
        return torch.stack([torch.full_like(self.step, stream), self.step])

    def uniform(self, n: int, stream: int) -> Tensor:
        """float32 [B, n] in [0, 1]."""
        words = philox_row_words(self.key(stream), torch.zeros_like(self.patient), self.patient, n)
        return (words.double() / 2**32).float()

    def normal(self, n: int, stream: int) -> Tensor:
        """float32 [B, n], standard normal."""
        return philox_normal(self.key(stream), torch.zeros_like(self.patient), self.patient, n).float()

    def rows(self, n: int) -> Tensor:
        """Philox rows of n draws of each patient, int64 [B n]."""
        draw = torch.arange(n, device=self.patient.device)
        return ((self.patient[:, None] * n + draw) % 2**32).view(-1)
