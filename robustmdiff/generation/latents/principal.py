"""Principal components: an image as few numbers, each of which knows of the whole image."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.generation.latents.latent import ImageLatent
from robustmdiff.refusal import Refusal

ROUNDING = 1e-6  # of a float32 image, relative


class PrincipalComponents(ImageLatent):
    """z: the first k principal components [k] of the training images, each divided by its sd.

    Of n images there are at most n - 1; those of z beyond are 0, and `decode` does not look at them. Before
    `fit` all are.
    """

    mean: Tensor
    components: Tensor
    sd: Tensor

    def __init__(self, image: tuple[int, int, int], k: int = 96) -> None:
        super().__init__(image)
        if k < 1:
            raise Refusal(f"k is {k}, expected at least 1")
        self.shape, self.options = (k,), {"image": list(image), "k": k}
        pixels = image[0] * image[1] * image[2]
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("components", torch.zeros(k, pixels))  # rows of unit length, or 0
        self.register_buffer("sd", torch.ones(k))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        from sklearn.decomposition import PCA

        self.check_images(x, least=1)
        rows = x.flatten(1)
        found = min(self.shape[0], len(rows) - 1, rows.shape[1])
        self.mean.copy_(rows.mean(dim=0))
        self.components.zero_()
        self.sd.fill_(1)
        if found < 1:
            return
        # By random projections (Halko et al. 2011): memory of one copy of the images, and no covariance.
        pca = PCA(found, svd_solver="randomized", random_state=0).fit(rows.cpu().numpy())
        variance = torch.from_numpy(pca.explained_variance_).to(self.sd)
        real = variance.sqrt() > ROUNDING * rows.norm(dim=1).mean()  # beyond the rank there is nothing else
        self.components[:found][real] = torch.from_numpy(pca.components_).to(self.sd)[real]
        self.sd[:found][real] = variance[real].sqrt()

    def encode(self, x: Tensor) -> Tensor:
        self.check_images(x)
        return (x.flatten(1) - self.mean) @ self.components.T / self.sd

    def decode(self, z: Tensor) -> Tensor:
        self.check_latents(z)
        return (self.mean + (z * self.sd) @ self.components).unflatten(1, self.image)
