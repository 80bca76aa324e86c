"""Writes NIfTI volumes of a head whose slices tell their height."""

from __future__ import annotations

import nibabel
import numpy as np


def head(count, scale=1.0, dtype=np.int16):
    """[8, 8, count]: slice z holds a square of (z + 1) * scale on 0."""
    voxels = np.zeros((8, 8, count), dtype)
    voxels[2:6, 2:6] = np.arange(1, count + 1) * scale
    return voxels


def written(path, voxels, shift=0.0):
    """Along right, anterior, superior; 1 mm; `shift` to the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4)
    affine[0, 3] = shift
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path
