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


def picture(make, body, readings, size, degraded, rng):
    """An image whose lesions vary by its own generator."""
    return make(imaging.Scene(body, readings, rng), size, degraded, rng)


VIEWS = {
    **{imaging.xray: 1, imaging.xray_lateral: 1, imaging.ct: 4},
    **{imaging.mri: 3, imaging.mri_aligned: 3},
}


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
    image = picture(imaging.xray, b, NOTHING, size, False, np.random.default_rng(0))[0] * imaging.LOG_RANGE
    # Quantum noise: sd of the logarithm of a Poisson count.
    noise = np.sqrt(np.exp(rays) / imaging.PHOTONS)
    assert np.abs(image - rays).mean() < noise.mean() + 0.05
    assert np.corrcoef(image.ravel(), rays.ravel())[0, 1] > 0.995


def test_a_lateral_view_is_the_projection_from_the_side_of_the_same_volume():
    """As above; the volume is that of the frontal test, so that only the direction differs."""
    b, size = body(), 32
    axis = 0.95 * (2 * (np.arange(size) + 0.5) / size - 1)
    x = np.linspace(-1.05, 1.05, 161)
    readings = NOTHING.copy()
    readings[IMAGING.index("lung mass")] = 1
    scene = imaging.Scene(b, readings, np.random.default_rng(6))
    mu = 0.20 * (1 + scene.canvas(x, axis, axis).volume[0].astype(np.float64) / 1000)
    rays = np.trapezoid(mu, x * CM, axis=2)[::-1]
    scene = imaging.Scene(b, readings, np.random.default_rng(6))
    image = imaging.xray_lateral(scene, size, False, np.random.default_rng(0))[0] * imaging.LATERAL_RANGE
    noise = np.sqrt(np.exp(rays) / imaging.LATERAL_PHOTONS)
    assert np.abs(image - rays).mean() < noise.mean() + 0.05
    assert np.corrcoef(image.ravel(), rays.ravel())[0, 1] > 0.995


@pytest.mark.parametrize("finding", ["lung mass", "pneumothorax", "tree-in-bud opacities", "atelectasis"])
def test_an_aligned_mri_shows_in_the_plane_of_a_ct_slice_what_that_shows(finding, monkeypatch):
    """Without noise a finding changes the same pixels of both: of the plane that cuts it, and none where
    it lies elsewhere (the atelectasis does)."""
    monkeypatch.setattr(imaging, "CT_NOISE", 0.0)
    monkeypatch.setattr(imaging, "MRI_NOISE", 0.0)
    readings = NOTHING.copy()
    readings[IMAGING.index(finding)] = 1

    def changed(make, channel):
        images = [
            make(imaging.Scene(body(), r, np.random.default_rng(8)), 64, False, np.random.default_rng(9))
            for r in (NOTHING, readings)
        ]
        return np.abs(images[1] - images[0])[channel] > 1e-3 * np.abs(images).max()

    ct = changed(imaging.ct, imaging.CT_LEVELS.index(imaging.ALIGNED_LEVEL))
    mri = changed(imaging.mri_aligned, slice(None)).any(axis=0)
    assert ct.any() == (finding != "atelectasis")
    assert (ct == mri).mean() > 0.995
    assert (ct & mri).sum() >= 0.9 * (ct | mri).sum()


def test_the_aligned_plane_is_the_ct_slice_that_cuts_the_most_findings():
    axis = imaging._axis(64)

    def cut(level):
        planes = imaging._planes(level)
        empty = imaging.Scene(body(), NOTHING, np.random.default_rng(0)).canvas(axis, axis, planes).volume
        seen = 0
        for finding in np.eye(len(IMAGING), dtype=np.int8):
            canvas = imaging.Scene(body(), finding, np.random.default_rng(0)).canvas(axis, axis, planes)
            seen += (np.abs(canvas.volume - empty).max(axis=(0, 1)) > 60).sum() > 20
        return seen

    assert max(imaging.CT_LEVELS, key=cut) == imaging.ALIGNED_LEVEL


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
    before, after = (picture(make, b, r, size, False, np.random.default_rng(4)) for r in (NOTHING, readings))
    again = picture(make, b, NOTHING, size, False, np.random.default_rng(5))
    floor = np.sort(np.abs(again - before).ravel())[-9]
    changed = np.sort(np.abs(after - before).ravel())[-9]
    assert changed > 1.5 * floor or changed > 5 * np.abs(again - before).mean()


@pytest.mark.parametrize(("make", "channels"), VIEWS.items())
@pytest.mark.parametrize("size", [32, 48])
def test_images_have_shape_dtype_and_range(make, channels, size):
    image = picture(make, body(), NOTHING, size, False, np.random.default_rng(0))
    assert image.shape == (channels, size, size)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    low, high = {1: (-0.01, 1.3), 4: (-1024, 1000), 3: (0, 1.5)}[channels]
    assert image.min() >= low
    assert image.max() <= high


@pytest.mark.parametrize("make", VIEWS)
def test_a_degraded_image_is_noisier(make):
    images = {
        degraded: [picture(make, body(), NOTHING, 64, degraded, np.random.default_rng(s)) for s in (1, 2)]
        for degraded in (False, True)
    }
    spread = {d: np.abs(a - b).mean() for d, (a, b) in images.items()}
    assert spread[True] > 2 * spread[False]


def test_all_images_of_a_patient_share_the_body():
    """A larger heart is larger in X-ray, CT and MRI alike."""
    from dataclasses import replace

    small, large = (replace(body(), heart=h) for h in (0.9, 1.15))
    for make, sign in ((imaging.xray, 1), (imaging.ct, 1), (imaging.mri, 1)):
        a, b = (picture(make, x, NOTHING, 64, False, np.random.default_rng(0)).mean() for x in (small, large))
        assert sign * (b - a) > 0, make.__name__
