"""From tissue to picture: the physics of X-ray, CT and MRI, each a few lines."""

from __future__ import annotations

import numpy as np

from robustmdiff.data.cohort.lesions import paint_lesions
from robustmdiff.data.cohort.phantom import CM, Body, Canvas

MU_WATER = 0.20  # 1/cm at about 60 keV
PHOTONS = 4e4  # per pixel of the unattenuated beam
LOG_RANGE = 6.0  # the line integral that is white in an X-ray
CT_LEVELS = (0.49, 0.20, -0.03, -0.28)  # of the axial slices, from above to below
CT_THICKNESS = 0.04  # between the two planes that one slice averages
CT_NOISE = 18.0  # HU
MRI_DEPTHS = (-0.09, -0.03, 0.03, 0.09)  # of the planes that one thick coronal slice averages
CONTRASTS = {"T1w": (500.0, 12.0), "T2w": (4000.0, 90.0), "PDw": (4000.0, 15.0)}  # TR, TE in ms
MRI_NOISE = 0.015
DEPTH = 24  # samples along the X-ray beam
EDGE = 0.95  # half the field of view


def line_integral(hu: np.ndarray, step: float) -> np.ndarray:
    """Integral of the attenuation along axis 1 (front to back): hu [Z, Y, X] in HU, step in cm."""
    return MU_WATER * step * (1 + hu / 1000).sum(axis=1)


def detect(p: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """The line integrals p as measured: Beer-Lambert, Poisson counts, logarithm."""
    counts = rng.poisson(photons * np.exp(-p))
    return -np.log(np.maximum(counts, 0.5) / photons)


def spin_echo(pd: np.ndarray, t1: np.ndarray, t2: np.ndarray, tr: float, te: float) -> np.ndarray:
    """S = PD (1 - exp(-TR / T1)) exp(-TE / T2), times in ms."""
    return pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)


def rician(signal: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of a complex signal with Gaussian noise of sd sigma in both channels."""
    real, imaginary = rng.normal(0, sigma, (2, *signal.shape))
    return np.hypot(signal + real, imaginary)


def xray(body: Body, readings: np.ndarray, size: int, degraded: bool, rng: np.random.Generator) -> np.ndarray:
    """Frontal view [1, size, size], 0 (air) to about 1 (dense), patient's right on the left."""
    axis = _axis(size)
    y = np.linspace(-0.62, 0.62, DEPTH)
    canvas = Canvas(body, axis, y, axis)
    paint_lesions(canvas, readings, rng)
    p = line_integral(canvas.volume[0], CM * (y[1] - y[0]))[::-1]
    if degraded:
        p = _blur(p)
    return (detect(p, PHOTONS / (40 if degraded else 1), rng) / LOG_RANGE)[None].astype(np.float32)


def ct(body: Body, readings: np.ndarray, size: int, degraded: bool, rng: np.random.Generator) -> np.ndarray:
    """Axial slices [4, size, size] in HU, front at the top, patient's right on the left."""
    planes = np.array([level + side * CT_THICKNESS / 2 for level in CT_LEVELS[::-1] for side in (-1, 1)])
    canvas = Canvas(body, _axis(size), _axis(size), planes)
    paint_lesions(canvas, readings, rng)
    hu = canvas.volume[0].reshape(len(CT_LEVELS), 2, size, size).mean(axis=1)[::-1]
    if degraded:
        hu = _blur(hu)
    noise = rng.normal(0, CT_NOISE * (6 if degraded else 1), hu.shape)
    return np.maximum(hu + _blur(noise) * 2.0, -1024).astype(np.float32)


def mri(body: Body, readings: np.ndarray, size: int, degraded: bool, rng: np.random.Generator) -> np.ndarray:
    """One thick coronal slice in three contrasts [3, size, size], relative signal."""
    canvas = Canvas(body, _axis(size), np.array(MRI_DEPTHS), _axis(size), mri=True)
    paint_lesions(canvas, readings, rng)
    pd, t1, t2 = canvas.volume
    images = np.stack([spin_echo(pd, t1, t2, *times).mean(axis=1) for times in CONTRASTS.values()])[:, ::-1]
    if degraded:
        images = _blur(images)
    images = images * _bias_field(size, rng)
    return rician(images, MRI_NOISE * (5 if degraded else 1), rng).astype(np.float32)


def _axis(size: int) -> np.ndarray:
    """Pixel centres."""
    return EDGE * (2 * (np.arange(size) + 0.5) / size - 1)


def _bias_field(size: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth sensitivity of the receiver coil, about 1 +- .1 [size, size]."""
    x = np.linspace(-1, 1, size)
    a = rng.normal(0, 0.05, 5)
    z = x[:, None]
    return np.exp(a[0] * x + a[1] * z + a[2] * x * z + a[3] * (x**2 - 1 / 3) + a[4] * (z**2 - 1 / 3))


def _blur(image: np.ndarray) -> np.ndarray:
    """A 3 x 3 binomial filter over the last two axes."""
    for axis in (-1, -2):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (1, 1)
        p = np.pad(image, pad, mode="edge")
        n = image.shape[axis]
        take = [np.take(p, range(k, k + n), axis=axis) for k in range(3)]
        image = (take[0] + 2 * take[1] + take[2]) / 4
    return image
