"""The patchified autoencoder learns, resumes, and measures its scale."""

from __future__ import annotations

import pytest
import torch

from robustmdiff.generation.latents.autoencoder import (
    AutoencoderConfig,
    Evidence,
    PatchAutoencoder,
    train_autoencoder,
)
from robustmdiff.generation.latents.principal import PrincipalComponents
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import CheckpointError
from tests.generation.latents.worlds import draw_images, psnr

CONFIG = AutoencoderConfig(epochs=12, batch_size=16, learning_rate=5e-3, ema_decay=0.9)


def make(seed: int = 0) -> PatchAutoencoder:
    torch.manual_seed(seed)
    return PatchAutoencoder((1, 16, 16), width=16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> PatchAutoencoder:
    latent = make()
    train_autoencoder(latent, draw_images(64), CONFIG, tmp_path_factory.mktemp("run"))
    return latent


def test_it_reconstructs_new_images_better_than_their_mean_and_one_component(trained):
    x, held_out = draw_images(64), draw_images(20, seed=9)
    one = PrincipalComponents((1, 16, 16), 1)
    one.fit(x)
    assert (
        psnr(trained.decode(trained.encode(held_out)), held_out)
        > psnr(one.decode(one.encode(held_out)), held_out) + 2
    )


def test_z_of_training_images_has_mean_0_and_sd_1_and_is_never_drawn(trained):
    x = draw_images(64)
    z = trained.encode(x)
    assert float(z.mean()) == pytest.approx(0, abs=1e-4)
    assert float(z.std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert torch.equal(trained.encode(x), z)


def test_convolutions_run_on_the_grid_of_the_latent():
    latent, sides = PatchAutoencoder((2, 24, 16), channels=3, width=8), set()
    for layer in latent.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(
                lambda _, inputs, out: sides.update({inputs[0].shape[2:], out.shape[2:]})
            )
    latent.decode(latent.encode(draw_images(2, (2, 24, 16))))
    assert sides == {(6, 4)}
    assert latent.shape == (3, 6, 4)


def test_the_kl_is_that_of_torch():
    latent, x = make(), draw_images(5)
    _, terms = Evidence(latent, CONFIG)(x)
    mean, log_variance = latent.posterior(x)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(
        normal(mean, (log_variance / 2).exp()), normal(torch.zeros_like(mean), torch.ones_like(mean))
    )
    torch.testing.assert_close(terms["kl"], kl.mean())


def test_a_run_is_not_overwritten_and_a_finished_one_resumes_to_the_same_bits(trained, tmp_path):
    x = draw_images(64)
    config = CONFIG.model_copy(update={"epochs": 1})
    first, again = make(), make(seed=1)
    train_autoencoder(first, x, config, tmp_path)
    with pytest.raises(CheckpointError, match="exists: resume that run"):
        train_autoencoder(again, x, config, tmp_path)
    train_autoencoder(again, x, config, tmp_path, resume=True)
    assert torch.equal(again.encode(x), first.encode(x))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channels": 0}, "channels is 0, expected at least 1"),
        ({"width": 12}, "width is 12, expected a multiple of 8"),
        ({"block": 5}, "block is 5, expected a number that divides both sides of 16 x 16"),
    ],
)
def test_sizes_that_cannot_be(options, sentence):
    with pytest.raises(Refusal, match=sentence):
        PatchAutoencoder((1, 16, 16), **options)
