"""What a translation has to beat."""

import torch

from robustmdiff.generation.translation_baselines import PrincipalRidge, mean_image
from tests.generation.world import draw_images


def test_ridge_finds_a_linear_map():
    """Of images with five components; what it leaves is what the ridge shrinks by."""
    g = torch.Generator().manual_seed(0)
    A, B = torch.randn(5, 2 * 6 * 7, generator=g), torch.randn(5, 4 * 3, generator=g)
    w = torch.randn(80, 5, generator=g)
    x, y = (w @ A).view(80, 2, 6, 7), (w @ B + 3).view(80, 1, 4, 3)
    guess = PrincipalRidge(x[:60], y[:60]).mean(x[60:])
    assert guess.shape == (20, 1, 4, 3)
    assert (guess - y[60:]).square().mean() < 1e-4 * y[60:].var()


def test_ridge_beats_the_mean_image_where_pixels_depend_on_pixels():
    train, test = draw_images(300), draw_images(50, seed=1)
    x, new = (torch.cat([images["T1w"], images["T2w"]], dim=1) for images in (train, test))
    truth, mean = test["PDw"], mean_image(train["PDw"], 50)
    assert torch.equal(mean[7], train["PDw"].mean(0))
    error = (PrincipalRidge(x, train["PDw"]).mean(new) - truth).square().mean()
    assert error < 0.5 * (mean - truth).square().mean()
