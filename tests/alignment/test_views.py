from dataclasses import replace

import pytest
import torch

from robustmdiff.alignment.views import NOISE, another_view, views_of


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=40, size=(24, 20)):
    """float32 [n, 1, H, W], a bright lesion at the upper left."""
    x = torch.full((n, 1, *size), -0.6)
    x[:, :, 3:10, 3:9] = 0.8
    return x


def agreement(x, y):
    x, y = (each.flatten(1) - each.flatten(1).mean(1, keepdim=True) for each in (x, y))
    return torch.nn.functional.cosine_similarity(x, y)


def test_it_is_never_mirrored_nor_turned_over():
    x = images()
    view = another_view(x, generator())
    assert (agreement(view, x) > 0.5).all()
    for flipped in (x.flip(-1), x.flip(-2), x.flip(-1, -2)):
        assert (agreement(view, flipped) < 0.2).all()


def test_each_view_is_another_and_stays_in_the_window():
    x = images()
    view = another_view(x, generator())
    assert view.shape == x.shape
    assert view.dtype == x.dtype
    assert view.abs().max() <= 1
    differs = (view - x).flatten(1).abs().amax(1)
    assert (differs > NOISE).all()
    assert (torch.cdist(view.flatten(1), view.flatten(1)) + torch.eye(len(x)) > 0.1).all()


def test_it_depends_on_the_generator_alone():
    x = images(5)
    assert torch.equal(another_view(x, generator(4)), another_view(x, generator(4)))
    assert not torch.equal(another_view(x, generator(4)), another_view(x, generator(5)))


def test_the_channels_of_an_image_are_changed_alike():
    """But for noise, of which each has its own: without it they must agree."""
    x = images(6).expand(-1, 3, -1, -1)
    view = another_view(x, generator())
    apart = (view - view.mean(1, keepdim=True)).abs()
    assert apart.mean() < NOISE
    assert apart.amax() < 6 * NOISE


def test_what_moves_in_from_outside_continues_the_edge():
    """No black border that would tell how far an image was moved."""
    view = another_view(torch.full((30, 1, 16, 16), 0.5), generator())
    assert (view.amax((1, 2, 3)) - view.amin((1, 2, 3)) < 10 * NOISE).all()


def test_of_a_batch_only_images_change(study):
    batch = study.collator(study.patients)
    seen = views_of(batch, study.task, generator())
    for modality in study.task.modalities:
        name = modality.name
        same = [torch.equal(a, b) for a, b in zip(batch.inputs[name], seen.inputs[name], strict=True)]
        assert all(same) == (modality.kind != "image"), name
    low, high = study.task.modality("ct").window
    pixels = seen.inputs["ct"].pixels
    assert low - 1e-3 * (high - low) <= pixels.min()
    assert pixels.max() <= high + 1e-3 * (high - low)


def test_a_batch_without_images_is_the_same(study):
    batch = study.collator(study.patients)
    empty = replace(batch, inputs={"text": batch.inputs["text"]})
    assert views_of(empty, study.task, generator()).inputs.keys() == {"text"}
    nobody = study.collator([])
    assert views_of(nobody, study.task, generator()).inputs["ct"].pixels.shape[0] == 0


@pytest.mark.parametrize("shape", [(3, 2, 8, 16), (1, 4, 5, 3)])
def test_any_shape_will_do(shape):
    assert another_view(torch.zeros(shape), generator()).shape == shape
