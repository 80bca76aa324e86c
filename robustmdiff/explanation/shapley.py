"""What each modality contributed to a diagnosis: exact Shapley values over all subsets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustmdiff.coalitions import every_subset, shapley_values
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.refusal import Refusal

LARGEST = 12  # modalities present; 4,096 diagnoses of one patient


class ShapleyValues(NamedTuple):
    """contribution [M, C], 0 for an absent modality; nothing [C] and everything [C], the
    probabilities with no modality and with all that the patient has. For every class the
    contributions add up to everything - nothing."""

    contribution: Tensor
    nothing: Tensor
    everything: Tensor


def modality_shapley(
    model: DiagnosisModel, encoded: Encoded, *, patient: int = 0, draws: int | None = None, seed: int = 0
) -> ShapleyValues:
    """Shapley values of the modalities that one patient of `encoded` has.

    A player is a modality, the worth of a coalition is `model.diagnose` with only its members
    left. Encoders are not run again: the 2^n masks are the rows of one batch, all reading the
    same tokens. Raises ValueError for a patient with more than 12 modalities.
    """
    present = encoded.m[patient]  # [M]
    players = present.nonzero()[:, 0]
    n = len(players)
    if n > LARGEST:
        raise Refusal(f"modality_shapley: the patient has {n} modalities, expected at most {LARGEST}")
    mask = torch.zeros(2**n, len(present), dtype=torch.bool, device=present.device)
    mask[:, players] = torch.from_numpy(every_subset(n)).to(present.device)
    worth = model.diagnose(encoded.repeat(patient, 2**n).keep(mask), draws=draws, seed=seed).probability
    contribution = worth.new_zeros(len(present), worth.shape[1])
    contribution[players] = torch.from_numpy(shapley_values(worth.double().cpu().numpy())).to(worth)
    return ShapleyValues(contribution, worth[0], worth[-1])
