"""Principal components against the singular value decomposition in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff.generation.latents.principal import PrincipalComponents
from robustmdiff.refusal import Refusal
from tests.generation.latents.worlds import draw_images, psnr


def test_it_reconstructs_as_well_as_the_best_plane():
    x, k = draw_images(60), 5
    latent = PrincipalComponents((1, 16, 16), k)
    latent.fit(x)
    rows = x.flatten(1).double()
    centred = rows - rows.mean(dim=0)
    best = torch.linalg.svdvals(centred)[k:].square().sum() / centred.square().sum()
    error = (latent.decode(latent.encode(x)) - x).double().square().sum() / centred.square().sum()
    assert float(error) == pytest.approx(float(best), rel=1e-3)


def test_z_is_standardised_and_uncorrelated():
    x = draw_images(80)
    latent = PrincipalComponents((1, 16, 16), 4)
    latent.fit(x)
    torch.testing.assert_close(torch.cov(latent.encode(x).T), torch.eye(4), atol=1e-3, rtol=0)


def test_more_components_reconstruct_better():
    x, held_out = draw_images(60), draw_images(20, seed=9)

    def quality(k: int) -> float:
        latent = PrincipalComponents((1, 16, 16), k)
        latent.fit(x)
        return psnr(latent.decode(latent.encode(held_out)), held_out)

    assert quality(1) + 1 < quality(3) < quality(5) - 1


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(1, 3), st.integers(1, 5))
def test_more_numbers_than_images_or_pixels(n, k, C, side):
    x = torch.randn(n, C, side, side, generator=torch.Generator().manual_seed(0))
    latent = PrincipalComponents((C, side, side), k)
    latent.fit(x)
    z = latent.encode(x)
    assert z.shape == (n, k)
    beyond = min(n - 1, C * side * side)
    assert not z[:, beyond:].any()
    if k >= beyond:  # all that there is
        torch.testing.assert_close(latent.decode(z), x, atol=1e-4, rtol=0)


def test_one_image_is_its_own_mean():
    x = draw_images(1)
    latent = PrincipalComponents((1, 16, 16), 3)
    latent.fit(x)
    assert not latent.encode(x).any()
    torch.testing.assert_close(latent.decode(torch.randn(2, 3)), x.expand(2, -1, -1, -1))


def test_images_that_are_all_alike_have_no_components():
    latent = PrincipalComponents((1, 4, 4), 3)
    latent.fit(torch.full((9, 1, 4, 4), 0.1))
    assert float(latent.encode(torch.rand(5, 1, 4, 4)).abs().max()) == 0


def test_a_second_fit_forgets_the_first():
    latent, fresh = PrincipalComponents((1, 16, 16), 6), PrincipalComponents((1, 16, 16), 6)
    latent.fit(draw_images(40))
    for each in (latent, fresh):
        each.fit(draw_images(3, seed=4))
    x = draw_images(5, seed=5)
    assert torch.equal(latent.encode(x), fresh.encode(x))


def test_k_must_be_at_least_1():
    with pytest.raises(Refusal, match="k is 0, expected at least 1"):
        PrincipalComponents((1, 4, 4), 0)
