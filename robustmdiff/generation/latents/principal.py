"""Principal components: an image as few numbers, each of which knows of the whole image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustmdiff.generation.latents.latent import ImageLatent
from robustmdiff.refusal import Refusal

ROUNDING = 1e-6  # of float32, relative


class Components(nn.Module):
    """rows [n, D] <-> z [n, k], their first k principal components, each divided by its sd.

    Of n rows there are at most n - 1; those of z beyond are 0, and `rebuild` does not look at them. Before
    `fit` all are.
    """

    mean: Tensor
    components: Tensor
    sd: Tensor

    def __init__(self, D: int, k: int) -> None:
        super().__init__()
        if k < 1:
            raise Refusal(f"k is {k}, expected at least 1")
        self.register_buffer("mean", torch.zeros(D))
        self.register_buffer("components", torch.zeros(k, D))  # rows of unit length, or 0
        self.register_buffer("sd", torch.ones(k))

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        from sklearn.decomposition import PCA

        self.mean.copy_(rows.mean(dim=0))
        self.components.zero_()
        self.sd.fill_(1)
        found = min(len(self.sd), len(rows) - 1, rows.shape[1])
        if found < 1 or torch.equal(rows.amin(dim=0), rows.amax(dim=0)):
            return
        # By random projections (Halko et al. 2011): memory of one copy of the rows, and no covariance.
        pca = PCA(found, svd_solver="randomized", random_state=0).fit(rows.cpu().numpy())
        sd = torch.from_numpy(pca.explained_variance_).to(self.sd).sqrt()
        real = sd > ROUNDING * rows.norm(dim=1).mean()  # beyond the rank there is rounding alone
        self.components[:found][real] = torch.from_numpy(pca.components_).to(self.sd)[real]
        self.sd[:found][real] = sd[real]

    def project(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) @ self.components.T / self.sd

    def rebuild(self, z: Tensor) -> Tensor:
        return self.mean + (z * self.sd) @ self.components


class PrincipalComponents(ImageLatent):
    """The first k principal components [k] of the training images, standardised (`Components`)."""

    def __init__(self, image: tuple[int, int, int], k: int = 96) -> None:
        super().__init__(image)
        self.shape, self.options = (k,), {"image": list(image), "k": k}
        self.components = Components(math.prod(image), k)

    def fit(self, x: Tensor) -> None:
        self.check_images(x, least=1)
        self.components.fit(x.flatten(1))

    def encode(self, x: Tensor) -> Tensor:
        self.check_images(x)
        return self.components.project(x.flatten(1))

    def decode(self, z: Tensor) -> Tensor:
        self.check_latents(z)
        return self.components.rebuild(z).unflatten(1, self.image)
