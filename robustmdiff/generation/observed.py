"""Patients' images as latents take them, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustmdiff.data.kinds.image import Image
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import Patient
from robustmdiff.encoders.image import denormalise, normalise


def images_of(patients: Sequence[Patient], modality: Modality) -> Tensor:
    """float32 [n, C, H, W] of patients who all have the modality, its window mapped to [-1, 1] and clipped.
    Raises DataError."""
    packed = Image().pack(modality, np.arange(len(patients)), patients, None)
    return normalise(torch.from_numpy(packed.pixels), modality.low_high).clamp_(-1, 1)


def frame_of(
    patients: Sequence[Patient], modalities: Sequence[Modality], hidden: Sequence[str] = ()
) -> tuple[dict[str, Tensor], Tensor]:
    """What patients have of a frame: images [n, C, H, W] by modality, 0 where absent, for each that anybody
    has; and present, bool [n, modalities]. The hidden ones count as absent."""
    present = torch.stack([having(patients, m.name) & (m.name not in hidden) for m in modalities], dim=1)
    images = {}
    for modality, there in zip(modalities, present.T, strict=True):
        rows = there.nonzero()[:, 0].tolist()
        if rows:
            x = images_of([patients[row] for row in rows], modality)
            images[modality.name] = x.new_zeros(len(patients), *x.shape[1:])
            images[modality.name][rows] = x
    return images, present


def as_observed(x: Tensor, modality: Modality) -> np.ndarray:
    """The inverse: float32 [..., C, H, W] in the modality's unit, within its window."""
    return denormalise(x.clamp(-1, 1), modality.low_high).cpu().numpy()


def encodable(patients: Sequence[Patient], modality: Modality) -> Any:
    """What patients, who all have the modality, are to its latent: texts, or images as `images_of`."""
    if modality.kind == "text":
        return [patient.modalities[modality.name] for patient in patients]
    return images_of(patients, modality)


def having(patients: Sequence[Patient], name: str) -> Tensor:
    """bool [n]"""
    return torch.tensor([patient.has(name) for patient in patients], dtype=torch.bool)


def without(patient: Patient, names: Sequence[str]) -> Patient:
    """The patient as if these modalities had not been observed."""
    return replace(patient, modalities={n: v for n, v in patient.modalities.items() if n not in names})
