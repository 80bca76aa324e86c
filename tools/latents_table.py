"""What each latent space keeps of the cohort's images and reports.

    python -m tools.latents_table       prints the tables of docs/generation_latents.md

3,000 training patients (seed 0), 600 test patients (seed 1), one thread: four minutes, most of them for
the autoencoder, which is trained on X-rays alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.cohort.cohort import CHANNELS, Cohort
from robustmdiff.data.cohort.mentions import findings_of
from robustmdiff.encoders.image import normalise
from robustmdiff.evaluation.generated.images import psnr, sharpness
from robustmdiff.generation.latents.autoencoder import AutoencoderConfig, PatchAutoencoder, train_autoencoder
from robustmdiff.generation.latents.dct import BlockDCT
from robustmdiff.generation.latents.latent import ImageLatent
from robustmdiff.generation.latents.principal import PrincipalComponents
from robustmdiff.generation.latents.text import TextLatent

TRAIN, TEST = CohortConfig(patients=3000, seed=0), CohortConfig(patients=600, seed=1)
NOISE = 0.3  # of a z of unit size, as a sampler may leave


def series(cohort: Cohort) -> dict[str, Tensor]:
    """float32 [n, C, 64, 64] of each series: contrasts apart."""
    out = {}
    for modality in cohort.task.modalities:
        if modality.kind != "image":
            continue
        name = modality.name
        pixels = np.stack([cohort.patients.observe(i, name) for i in range(len(cohort))])
        x = normalise(torch.from_numpy(pixels).float(), modality.low_high).clamp(-1, 1)
        contrasts = CHANNELS[name] if name == "mri" else ()
        out |= {f"mri_{c}": x[:, i : i + 1] for i, c in enumerate(contrasts)} or {name: x}
    return out


def latents(name: str, image: tuple[int, int, int]) -> Iterator[tuple[str, ImageLatent]]:
    yield "block DCT", BlockDCT(image)
    for k in (64, 96, 256):
        yield f"PCA {k}", PrincipalComponents(image, k)
    if name == "xray":  # it takes minutes for each
        torch.manual_seed(0)
        yield "patch autoencoder", PatchAutoencoder(image)


def fitted(latent: ImageLatent, x: Tensor) -> float:
    """The seconds of CPU that it takes."""
    start = time.process_time()
    if isinstance(latent, PatchAutoencoder):
        with tempfile.TemporaryDirectory() as folder:
            train_autoencoder(latent, x, AutoencoderConfig(), folder)
    else:
        latent.fit(x)
    return time.process_time() - start


def images(train: Cohort, test: Cohort) -> None:
    print("| series | latent | numbers | fit, s | PSNR, dB | Laplacian / real |\n|---|---|---|---|---|---|")
    held_out = series(test)
    for name, x in series(train).items():
        for kind, latent in latents(name, tuple(x.shape[1:])):
            seconds, real = fitted(latent, x), held_out[name]
            with torch.no_grad():
                y = torch.cat([latent.decode(latent.encode(part)) for part in real.split(100)]).clamp(-1, 1)
            laplacian = sharpness(y, real)
            left = laplacian.above.mean() / laplacian.below.mean()
            quality = f"{psnr(y, real).mean():.1f} | {left:.2f}"
            print(f"| {name} | {kind} | {np.prod(latent.shape):,} | {seconds:.1f} | {quality} |", flush=True)


def reports(train: Cohort, test: Cohort) -> None:
    print("\n| numbers | fit, s | finding F1 | the same, noise added to z |\n|---|---|---|---|")
    texts, asked = ([c.patients.observe(i, "text") for i in range(len(c))] for c in (train, test))
    said = np.stack([findings_of(text) == 1 for text in asked])
    for k in (32, 48, 64, 96):
        start = time.process_time()
        latent = TextLatent.fit(texts, k)
        seconds, z = time.process_time() - start, latent.encode(asked)
        noisy = z + NOISE * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
        written = [np.stack([findings_of(text) == 1 for text in latent.decode(each)]) for each in (z, noisy)]
        f1 = [2 * (said & each).sum() / (said.sum() + each.sum()) for each in written]
        print(f"| {k} | {seconds:.1f} | {f1[0]:.3f} | {f1[1]:.3f} |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    train, test = make_cohort(TRAIN), make_cohort(TEST)
    images(train, test)
    reports(train, test)


if __name__ == "__main__":
    main()
