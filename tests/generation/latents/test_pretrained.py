"""An AutoencoderKL that diffusers wrote, as a latent space."""

from __future__ import annotations

import builtins

import pytest
import torch

from robustmdiff.generation.latents.pretrained import PretrainedAutoencoder
from robustmdiff.generation.latents.saved import load_latent, save_latent
from robustmdiff.refusal import Refusal
from tests.generation.latents.worlds import draw_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """One of three channels that halves the sides and has two of its own."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vae")
    AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        latent_channels=2,
        norm_num_groups=2,
        layers_per_block=1,
        scaling_factor=7.0,
    ).save_pretrained(path)
    return str(path)


def test_of_a_grey_image_it_sees_three_equal_channels_and_answers_with_their_mean(folder):
    latent = PretrainedAutoencoder.read((1, 16, 8), folder)
    x = draw_images(4, (1, 16, 8))
    assert latent.shape == (2, 8, 4)
    with torch.no_grad():
        z = latent.vae.encode(x.repeat(1, 3, 1, 1)).latent_dist.mean
        torch.testing.assert_close(latent.encode(x), z)  # before fit
        torch.testing.assert_close(latent.decode(z), latent.vae.decode(z).sample.mean(dim=1, keepdim=True))


def test_each_channel_of_a_series_goes_through_alone(folder):
    latent, one = PretrainedAutoencoder.read((2, 8, 8), folder), PretrainedAutoencoder.read((1, 8, 8), folder)
    x = draw_images(3, (2, 8, 8))
    z = latent.encode(x)
    assert latent.shape == (4, 4, 4)
    torch.testing.assert_close(z[:, 2:], one.encode(x[:, 1:]))
    torch.testing.assert_close(latent.decode(z)[:, 1:], one.decode(z[:, 2:]))


def test_an_image_of_as_many_channels_goes_through_whole(folder):
    latent = PretrainedAutoencoder.read((3, 8, 8), folder)
    x = draw_images(2, (3, 8, 8))
    torch.testing.assert_close(latent.encode(x), latent.vae.encode(x).latent_dist.mean)
    assert latent.decode(latent.encode(x)).shape == x.shape


def test_the_scale_is_that_of_the_images_not_of_the_config(folder):
    latent = PretrainedAutoencoder.read((1, 16, 16), folder)
    x = draw_images(20)
    latent.fit(x)
    z = latent.encode(x)
    assert float(z.mean()) == pytest.approx(0, abs=1e-4)
    assert float(z.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_it_is_saved_with_all_that_it_needs(folder, tmp_path):
    latent = PretrainedAutoencoder.read((1, 16, 16), folder)
    x = draw_images(5)
    latent.fit(x)
    save_latent(latent, tmp_path)
    assert torch.equal(load_latent(tmp_path).encode(x), latent.encode(x))


def test_a_folder_that_holds_none_is_refused(tmp_path):
    with pytest.raises(
        Refusal, match=r"has no config.json, expected the folder of a diffusers AutoencoderKL"
    ):
        PretrainedAutoencoder.read((1, 8, 8), tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(Refusal, match="is no AutoencoderKL of diffusers"):
        PretrainedAutoencoder.read((1, 8, 8), tmp_path)


def test_sides_that_do_not_come_back_are_refused(folder):
    with pytest.raises(Refusal, match="images of 9 x 8 come back as 8 x 8, expected equal"):
        PretrainedAutoencoder.read((1, 9, 8), folder)


def test_without_diffusers_it_says_what_to_install(folder, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "diffusers":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Refusal, match=r"needs diffusers: install robustmdiff\[diffusers\]"):
        PretrainedAutoencoder.read((1, 8, 8), folder)
