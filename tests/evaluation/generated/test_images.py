"""Images against the real ones: independent definitions in float64, a sampler whose spread is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d, laplace

from robustmdiff.evaluation.generated.images import (
    averaged_psnr,
    psnr,
    sharpness,
    spectra,
    spread_over_skill,
    ssim,
)
from robustmdiff.evaluation.metrics import mean
from robustmdiff.evaluation.statistics import interval, resamples

ONE_EACH = np.ones(5)


def images(n: int = 5, channels: int = 2, height: int = 17, width: int = 13, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, height, width, generator=generator) * 2 - 1


@pytest.mark.parametrize("measure", [psnr, ssim, sharpness, spectra])
class TestRefusals:
    def test_shapes_that_differ(self, measure):
        with pytest.raises(ValueError, match=r"generated is \[5, 2, 17, 12\], expected \[5, 2, 17, 13\]"):
            measure(images(width=12), images())

    def test_no_images(self, measure):
        with pytest.raises(ValueError, match=r"real is \[0, 2, 17, 13\], expected images"):
            measure(images(0), images(0))

    def test_one_image_without_its_axis(self, measure):
        with pytest.raises(ValueError, match=r"real is \[2, 17, 13\], expected images"):
            measure(images()[0], images()[0])

    def test_nan(self, measure):
        broken = images()
        broken[3, 1, 2, 2] = math.nan
        with pytest.raises(ValueError, match=r"generated\[3\] holds NaN"):
            measure(broken, images())

    def test_pixels_outside_the_window(self, measure):
        with pytest.raises(ValueError, match=r"real reaches 25\d.* expected the window"):
            measure(images(), images() * 255)


def test_psnr_is_that_of_a_known_error_and_its_mean_is_over_images():
    real = images() / 2
    error = torch.tensor([0.5, 0.25, 0.1, 0.02, 1.0])
    found = psnr(real + error[:, None, None, None], real)
    expected = 20 * np.log10(2 / error.double().numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)  # float32 images: .1 is not .1
    pooled = 10 * np.log10(4 / np.mean(error.double().numpy() ** 2))
    assert mean(found, ONE_EACH) > pooled + 3


def test_psnr_under_a_mask_sees_these_pixels_alone():
    real, mask = images(), torch.rand(5, 1, 17, 13) < 0.4
    generated = torch.where(mask, real + 0.25, torch.tensor(-1.0))
    np.testing.assert_allclose(psnr(generated, real, mask), np.full(5, 20 * np.log10(8)), atol=1e-5)


def test_a_mask_that_keeps_nothing_or_is_of_another_kind_is_refused():
    mask = torch.ones(5, 1, 17, 13, dtype=torch.bool)
    mask[2] = False
    with pytest.raises(ValueError, match=r"mask\[2\] keeps no pixel"):
        psnr(images(), images(), mask)
    with pytest.raises(ValueError, match=r"mask is torch.float32 \[5, 1, 17, 13\], expected bool"):
        psnr(images(), images(), mask.float())


def test_a_copy_has_infinite_psnr_which_no_mean_swallows():
    found = psnr(images(), images())
    assert np.isinf(found).all()
    with pytest.raises(ValueError, match="is inf, expected a finite number"):
        mean(found, ONE_EACH)


def ssim_of_channel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Wang et al. 2004, equation 13, in float64; mirrored at the border."""
    tap = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    tap /= tap.sum()

    def blurred(z: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(z, tap, axis=0, mode="mirror"), tap, axis=1, mode="mirror")

    mx, my = blurred(x), blurred(y)
    vx, vy, vxy = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def test_ssim_is_the_published_definition():
    real, generated = images(seed=1), images(seed=1) * 0.6 + images(seed=2) * 0.4
    x, y = ((z.double().numpy() + 1) / 2 for z in (generated, real))
    expected = [
        np.mean([ssim_of_channel(a, b) for a, b in zip(p, q, strict=True)]) for p, q in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(ssim(generated, real), expected, rtol=1e-10)
    assert ssim(real, real) == pytest.approx(np.ones(5))


def test_ssim_of_constant_images_is_that_of_their_brightness():
    x, y = torch.full((1, 1, 16, 16), 0.0), torch.full((1, 1, 16, 16), 0.5)
    assert ssim(x, y) == pytest.approx([(2 * 0.5 * 0.75 + 1e-4) / (0.5**2 + 0.75**2 + 1e-4)])


def test_ssim_of_images_below_its_window_is_refused():
    with pytest.raises(ValueError, match="images are 17 x 10, expected at least 11 x 11"):
        ssim(images(width=10), images(width=10))


def gaussian_sampler(samples: int, spread: float, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Truth = mean + .1 z; samples = the same mean + .1 spread z', so .1 is what nobody can know."""
    generator = torch.Generator().manual_seed(samples)
    known = torch.rand(n, 1, 16, 16, generator=generator) - 0.5

    def noise(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(*shape, generator=generator).clamp(-4.9, 4.9)

    return known + spread * noise(samples, *known.shape), known + noise(*known.shape)


@settings(max_examples=12, deadline=None)
@given(samples=st.integers(2, 24), spread=st.sampled_from([0.5, 1.0, 2.0]))
def test_spread_over_skill_is_one_for_the_right_spread_alone(samples, spread):
    drawn, real = gaussian_sampler(samples, spread)
    N, s2 = samples, spread**2
    expected = (N + 1) / N * s2 / (1 + s2 / N)  # 1 for s = 1, whatever N
    found = spread_over_skill(drawn, real).of(np.ones(len(real)))
    assert found == pytest.approx(expected, rel=0.06)  # 10,240 pixels: sd of either mean below 1.5 %


@pytest.mark.parametrize("samples", [1, 2, 16])
def test_averaged_psnr_is_that_of_the_conditional_mean_for_any_number_of_samples(samples):
    drawn, real = gaussian_sampler(samples, 1.0, n=200)
    found = mean(averaged_psnr(drawn, real), np.ones(200))
    assert found == pytest.approx(20 * np.log10(2 / 0.1), abs=0.05)


def test_one_sample_has_no_spread():
    drawn, real = gaussian_sampler(1, 1.0)
    with pytest.raises(ValueError, match="1 sample of each image, expected at least 2"):
        spread_over_skill(drawn, real)


@pytest.mark.parametrize("measure", [averaged_psnr, spread_over_skill])
def test_samples_of_other_images_are_refused(measure):
    drawn, real = gaussian_sampler(3, 1.0)
    with pytest.raises(ValueError, match=r"samples are \[3, 39, 1, 16, 16\], expected \[N, 40, 1, 16, 16\]"):
        measure(drawn[:, 1:], real)


def test_an_interval_over_patients_holds_the_ratio_of_the_whole():
    drawn, real = gaussian_sampler(4, 1.0)
    weight = resamples([str(i // 2) for i in range(40)], 200)
    found = interval(spread_over_skill(drawn, real).of(weight))
    assert found is not None
    assert found.low < found.value < found.high
    assert found.low < 1 < found.high


def test_sharpness_is_the_energy_of_the_laplacian():
    real, generated = images(seed=3), images(seed=4)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    energy = [
        (laplace(x.double().numpy(), axes=(2, 3))[inside] ** 2).mean(axis=(1, 2, 3))
        for x in (generated, real)
    ]
    found = sharpness(generated, real)
    np.testing.assert_allclose(found.above, energy[0], rtol=1e-12)
    np.testing.assert_allclose(found.below, energy[1], rtol=1e-12)
    assert sharpness(real / 2, real).of(ONE_EACH) == pytest.approx(0.25)
    assert sharpness(torch.zeros(5, 2, 17, 13), real).of(ONE_EACH) == 0
    assert np.isnan(sharpness(real, torch.full_like(real, 0.3)).of(ONE_EACH))


def test_a_wave_has_its_power_at_its_frequency():
    x = torch.arange(16, dtype=torch.float64) / 16 * 2 * torch.pi
    wave = (0.5 * torch.cos(3 * x)).expand(1, 1, 16, 16)
    power = spectra(wave, wave).real[0]
    ring = int((np.hypot(*np.meshgrid(*[np.fft.fftfreq(16, 1 / 16)] * 2)).round() == 3).sum())
    assert power.nonzero()[0].tolist() == [2]  # the first is frequency 1
    assert power[2] * ring == pytest.approx(0.5**2 / 2)  # Parseval


def test_the_distance_of_spectra_is_in_decibel():
    real = images(seed=5)
    assert spectra(real, real).distance(ONE_EACH) == 0
    assert spectra(real / 2**0.5, real).distance(ONE_EACH) == pytest.approx(10 * math.log10(2), rel=1e-5)
    assert spectra(torch.full_like(real, 0.3), real).distance(ONE_EACH) == math.inf
    assert np.isnan(spectra(real, torch.full_like(real, 0.3)).distance(ONE_EACH))
    both = spectra(images(seed=6), real)
    assert both.distance(np.ones((3, 5))).shape == (3,)


def test_a_single_image_is_enough():
    one, other = images(1), images(1, seed=1)
    assert psnr(one, other).shape == ssim(one, other).shape == (1,)
    assert spectra(one, other).distance(np.ones(1)) > 0
