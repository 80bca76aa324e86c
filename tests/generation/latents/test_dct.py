"""The block DCT against scipy's, and what it does to scales."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff.generation.latents.dct import BlockDCT, dct_matrix
from robustmdiff.refusal import Refusal
from tests.generation.latents.worlds import draw_images


@pytest.mark.parametrize("b", [1, 2, 4, 7])
def test_the_matrix_is_scipys(b):
    np.testing.assert_allclose(
        dct_matrix(b).numpy(), scipy.fft.dct(np.eye(b), axis=0, norm="ortho"), atol=1e-15
    )


def test_before_fit_it_is_the_orthonormal_transform_of_each_block():
    x = draw_images(3, (2, 8, 12))
    z = BlockDCT((2, 8, 12)).encode(x)
    assert z.shape == (3, 2 * 16, 2, 3)
    block = x[1, 1, 4:8, 8:12].double().numpy()
    np.testing.assert_allclose(
        z[1, 16:, 1, 2].numpy(), scipy.fft.dctn(block, norm="ortho").ravel(), atol=2e-6
    )


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_inverse_is_exact_to_rounding(data):
    C, b, h, w, n = (data.draw(st.integers(1, most)) for most in (4, 8, 5, 5, 3))
    x = torch.randn(n, C, h * b, w * b, generator=torch.Generator().manual_seed(0))
    latent = BlockDCT((C, h * b, w * b), b)
    latent.fit(x)
    z = latent.encode(x)
    assert z.shape == (n, *latent.shape) == (n, C * b * b, h, w)
    eps = torch.finfo(torch.float32).eps
    assert float((latent.decode(z) - x).abs().max()) < 4 * b * b * eps * float(x.abs().max())


def test_fit_gives_mean_0_and_a_mean_variance_of_1_and_keeps_the_order_of_bands():
    latent = BlockDCT((1, 16, 16))
    x = draw_images(50)
    raw = latent.encode(x).std(dim=(0, 2, 3))
    latent.fit(x)
    z = latent.encode(x)
    assert float(z.mean(dim=(0, 2, 3)).abs().max()) < 1e-4
    assert float(z.var(dim=(0, 2, 3), correction=0).mean()) == pytest.approx(1, abs=1e-4)
    # Each coefficient is divided by the root of its sd: variances are as sds were.
    torch.testing.assert_close(z.var(dim=(0, 2, 3)) / raw, (1 / raw.mean()).expand(16), rtol=1e-2, atol=0)


def test_images_that_are_all_alike_stay_exact():
    latent = BlockDCT((1, 8, 8))
    x = torch.full((1, 1, 8, 8), 0.3)
    latent.fit(x)
    assert float(latent.encode(x).abs().max()) < 1e-5
    other = torch.full((1, 1, 8, 8), -0.7)
    torch.testing.assert_close(latent.decode(latent.encode(other)), other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("block", [0, 3, 5])
def test_a_block_must_divide_the_image(block):
    with pytest.raises(
        Refusal, match=f"block is {block}, expected a number that divides both sides of 16 x 10"
    ):
        BlockDCT((1, 16, 10), block)
