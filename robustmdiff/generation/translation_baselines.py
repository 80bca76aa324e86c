"""What a translation has to beat: the mean image, a copied source, a linear map fitted in seconds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

COMPONENTS = (256, 128)  # of what is seen, and of what is asked for
ALPHAS = np.logspace(-2, 4, 7)  # of the ridge; cross-validation chooses


def mean_image(target: Tensor, n: int) -> Tensor:
    """The mean of training images [m, C, H, W], n times."""
    return target.mean(0).expand(n, *target.shape[1:])


class PrincipalRidge:
    """Ridge regression between the principal components of the sources and those of the target.

    sources [n, C, H, W], side by side as channels, and target [n, c, h, w]; of any sizes.
    """

    def __init__(self, sources: Tensor, target: Tensor) -> None:
        from sklearn.compose import TransformedTargetRegressor
        from sklearn.decomposition import PCA
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline

        self.shape = target.shape[1:]
        x, y = sources.flatten(1).numpy(), target.flatten(1).numpy()
        k, j = (min(most, len(x) - 1, each.shape[1]) for most, each in zip(COMPONENTS, (x, y), strict=True))
        self.model = TransformedTargetRegressor(
            make_pipeline(PCA(k, random_state=0), RidgeCV(ALPHAS)),
            transformer=PCA(j, random_state=0),
            check_inverse=False,  # what few components leave out does not come back
        ).fit(x, y)

    def mean(self, sources: Tensor) -> Tensor:
        """The images [n, c, h, w] that it expects for sources [n, C, H, W]."""
        y = self.model.predict(sources.flatten(1).numpy())
        return torch.from_numpy(y).to(sources).unflatten(1, self.shape)
