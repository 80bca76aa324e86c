"""What every latent of images has to keep: refusals, and the way to disk and back."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from robustmdiff.generation.latents.autoencoder import PatchAutoencoder
from robustmdiff.generation.latents.dct import BlockDCT
from robustmdiff.generation.latents.latent import ImageLatent
from robustmdiff.generation.latents.principal import PrincipalComponents
from robustmdiff.generation.latents.saved import load_latent, save_latent
from robustmdiff.refusal import Refusal
from tests.generation.latents.worlds import draw_images

IMAGE = (2, 8, 12)
KINDS: list[Callable[[], ImageLatent]] = [
    lambda: BlockDCT(IMAGE),
    lambda: PrincipalComponents(IMAGE, 3),
    lambda: PatchAutoencoder(IMAGE, channels=3, width=8),
]


@pytest.fixture(params=KINDS, ids=["dct", "principal", "autoencoder"])
def latent(request) -> ImageLatent:
    return request.param()


def test_the_shape_is_as_announced(latent):
    x = draw_images(7, IMAGE)
    latent.fit(x)
    z = latent.encode(x)
    assert z.shape == (7, *latent.shape)
    assert latent.decode(z).shape == x.shape
    assert 0.3 < float(z.std()) < 3


def test_one_image_is_enough_to_fit(latent):
    latent.fit(draw_images(1, IMAGE))
    assert torch.isfinite(latent.decode(latent.encode(draw_images(2, IMAGE, seed=1)))).all()


def test_no_image_is_an_answer(latent):
    latent.fit(draw_images(4, IMAGE))
    z = latent.encode(torch.zeros(0, *IMAGE))
    assert z.shape == (0, *latent.shape)
    assert latent.decode(z).shape == (0, *IMAGE)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_number_is_refused(latent, bad):
    x = draw_images(4, IMAGE)
    x[2, 1, 3, 4] = bad
    for step in (latent.fit, latent.encode):
        with pytest.raises(Refusal, match="image 2 has a value that is NaN or infinite, expected finite"):
            step(x)


@pytest.mark.parametrize("shape", [(3, 1, 8, 12), (3, 2, 12, 8), (2, 8, 12)])
def test_images_of_another_size_are_refused(latent, shape):
    for step in (latent.fit, latent.encode):
        with pytest.raises(Refusal, match=r"images are \[.*\], expected \[n, 2, 8, 12\]"):
            step(torch.zeros(shape))


def test_none_to_fit_on_is_refused(latent):
    with pytest.raises(Refusal, match="0 images to fit, expected at least 1"):
        latent.fit(torch.zeros(0, *IMAGE))


def test_latents_of_another_shape_are_refused(latent):
    with pytest.raises(ValueError, match=r"z is \[1, 99\], expected \[n, "):
        latent.decode(torch.zeros(1, 99))


@pytest.mark.parametrize("image", [(8, 12), (0, 8, 12)])
def test_what_is_no_size_of_an_image_is_refused(image):
    with pytest.raises(Refusal, match=r"image is \[.*\], expected \[channels, height, width\]"):
        BlockDCT(image)


def test_a_saved_latent_encodes_to_the_bit_as_it_did(latent, tmp_path):
    x = draw_images(9, IMAGE)
    latent.fit(x)
    latent.eval()
    save_latent(latent, tmp_path / "new" / "folder")
    again = load_latent(tmp_path / "new" / "folder")
    assert type(again) is type(latent)
    z = latent.encode(x)
    assert torch.equal(again.encode(x), z)
    assert torch.equal(again.decode(z), latent.decode(z))
    assert not again.training


def test_a_folder_that_holds_none_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"latent.json: cannot be read .*expected what save_latent wrote"):
        load_latent(tmp_path)


@pytest.mark.parametrize("change", [{"latent": "Wavelets"}, {"format": 2}])
def test_a_description_of_something_else_is_refused(tmp_path, change):
    save_latent(BlockDCT(IMAGE), tmp_path)
    path = tmp_path / "latent.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(Refusal, match=r"latent.json: is .* in format .*, expected one of BlockDCT"):
        load_latent(tmp_path)


def test_truncated_numbers_are_refused(tmp_path):
    save_latent(BlockDCT(IMAGE), tmp_path)
    path = tmp_path / "latent.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Refusal, match=r"latent.safetensors: cannot be read"):
        load_latent(tmp_path)
