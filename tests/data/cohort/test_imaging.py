"""The physics of the three images, each against its own definition."""

from __future__ import annotations

import numpy as np
import pytest

from robustmdiff.data.cohort import imaging
from robustmdiff.data.cohort.phantom import CM, TISSUES, Body, Canvas
from robustmdiff.data.cohort.table import IMAGING

NOTHING = np.zeros(len(IMAGING), dtype=np.int8)


def body():
    return Body.draw(np.random.default_rng(3))


def test_line_integral_by_a_plain_loop():
    hu = np.random.default_rng(0).uniform(-1000, 800, (3, 5, 7))
    expected = np.zeros((3, 7))
    for z in range(3):
        for x in range(7):
            for y in range(5):
                expected[z, x] += 0.20 * (1 + hu[z, y, x] / 1000) * 0.7  # 1/cm x cm
    np.testing.assert_allclose(imaging.line_integral(hu, 0.7), expected, rtol=1e-12)


def test_water_and_air_have_the_attenuation_that_defines_them():
    assert imaging.line_integral(np.full((1, 10, 1), -1000.0), 1.0)[0, 0] == pytest.approx(0)
    assert imaging.line_integral(np.zeros((1, 10, 1)), 1.0)[0, 0] == pytest.approx(0.20 * 10)


def test_detected_counts_follow_beer_lambert_and_poisson():
    p = np.full(40000, 2.0)
    counts = 500 * np.exp(-imaging.detect(p, 500, np.random.default_rng(1)))
    expected = 500 * np.exp(-2)
    assert counts.mean() == pytest.approx(expected, abs=5 * np.sqrt(expected / 40000))
    assert counts.var() == pytest.approx(expected, rel=0.05)


def test_no_photon_at_all_is_finite():
    assert np.isfinite(imaging.detect(np.full(100, 60.0), 1e4, np.random.default_rng(0))).all()


def test_xray_is_the_projection_of_the_volume_it_was_made_from():
    """An independent ray sum: trapezoidal along the beam, on a grid twice as fine as the image's,
    differs from the noise-free X-ray by the discretisation only."""
    b, size = body(), 32
    axis = 0.95 * (2 * (np.arange(size) + 0.5) / size - 1)
    y = np.linspace(-0.62, 0.62, 97)
    volume = Canvas(b, axis, y, axis).volume[0]
    mu = 0.20 * (1 + volume.astype(np.float64) / 1000)
    rays = np.trapezoid(mu, y * CM, axis=1)[::-1]
    image = imaging.xray(b, NOTHING, size, False, np.random.default_rng(0))[0] * imaging.LOG_RANGE
    # Quantum noise: sd of the logarithm of a Poisson count.
    noise = np.sqrt(np.exp(rays) / imaging.PHOTONS)
    assert np.abs(image - rays).mean() < noise.mean() + 0.05
    assert np.corrcoef(image.ravel(), rays.ravel())[0, 1] > 0.995


def test_spin_echo_by_hand():
    # PD 0.8, T1 900, T2 45 at TR 500, TE 12: 0.8 (1 - e^-0.5556) e^-0.2667
    assert imaging.spin_echo(0.8, 900.0, 45.0, 500.0, 12.0) == pytest.approx(
        0.8 * 0.4262466 * 0.7659283, rel=1e-6
    )


def test_contrasts_order_the_tissues_as_radiologists_know_them():
    def signal(tissue, contrast):
        _, pd, t1, t2 = TISSUES[tissue]
        return imaging.spin_echo(pd, t1, t2, *imaging.CONTRASTS[contrast])

    assert signal("fat", "T1w") > signal("muscle", "T1w") > signal("fluid", "T1w")
    assert signal("fluid", "T2w") > signal("fat", "T2w") > signal("muscle", "T2w")
    assert all(signal("air", contrast) == 0 for contrast in imaging.CONTRASTS)


@pytest.mark.parametrize("signal", [0.0, 0.03, 0.5])
def test_rician_noise_has_rician_moments(signal):
    """E[M^2] = S^2 + 2 sigma^2; without signal the mean is the Rayleigh mean."""
    sigma, n = 0.04, 200000
    m = imaging.rician(np.full(n, signal), sigma, np.random.default_rng(2))
    second = m**2
    assert second.mean() == pytest.approx(signal**2 + 2 * sigma**2, abs=5 * second.std() / np.sqrt(n))
    if signal == 0:
        assert m.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), abs=5 * m.std() / np.sqrt(n))


@pytest.mark.parametrize("make", [imaging.xray, imaging.ct, imaging.mri])
@pytest.mark.parametrize("finding", range(len(IMAGING)))
def test_every_finding_changes_every_image(make, finding):
    """With the same body and noise, painting the finding moves pixels far beyond the rest."""
    b, size = body(), 64
    readings = NOTHING.copy()
    readings[finding] = 1
    before, after = (make(b, r, size, False, np.random.default_rng(4)) for r in (NOTHING, readings))
    again = make(b, NOTHING, size, False, np.random.default_rng(5))
    floor = np.sort(np.abs(again - before).ravel())[-9]
    changed = np.sort(np.abs(after - before).ravel())[-9]
    assert changed > 1.5 * floor or changed > 5 * np.abs(again - before).mean()


@pytest.mark.parametrize(("make", "channels"), [(imaging.xray, 1), (imaging.ct, 4), (imaging.mri, 3)])
@pytest.mark.parametrize("size", [32, 48])
def test_images_have_shape_dtype_and_range(make, channels, size):
    image = make(body(), NOTHING, size, False, np.random.default_rng(0))
    assert image.shape == (channels, size, size)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    low, high = {1: (-0.01, 1.3), 4: (-1024, 1000), 3: (0, 1.5)}[channels]
    assert image.min() >= low
    assert image.max() <= high


@pytest.mark.parametrize("make", [imaging.xray, imaging.ct, imaging.mri])
def test_a_degraded_image_is_noisier(make):
    images = {
        degraded: [make(body(), NOTHING, 64, degraded, np.random.default_rng(s)) for s in (1, 2)]
        for degraded in (False, True)
    }
    spread = {d: np.abs(a - b).mean() for d, (a, b) in images.items()}
    assert spread[True] > 2 * spread[False]


def test_all_images_of_a_patient_share_the_body():
    """A larger heart is larger in X-ray, CT and MRI alike."""
    from dataclasses import replace

    small, large = (replace(body(), heart=h) for h in (0.9, 1.15))
    for make, sign in ((imaging.xray, 1), (imaging.ct, 1), (imaging.mri, 1)):
        a, b = (make(x, NOTHING, 64, False, np.random.default_rng(0)).mean() for x in (small, large))
        assert sign * (b - a) > 0, make.__name__
