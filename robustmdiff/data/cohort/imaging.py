"""From tissue to picture: the physics of X-ray, CT and MRI, each a few lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustmdiff.data.cohort.lesions import paint_lesions
from robustmdiff.data.cohort.phantom import CM, Body, Canvas

MU_WATER = 0.20  # 1/cm at about 60 keV
PHOTONS = 4e4  # per pixel of the unattenuated beam
LOG_RANGE = 6.0  # the line integral that is white in an X-ray
LATERAL_PHOTONS, LATERAL_RANGE = 4e5, 9.0  # from the side there is more to pass: more light, a wider scale
CT_LEVELS = (0.49, 0.20, -0.03, -0.28)  # of the axial slices, from above to below
CT_THICKNESS = 0.04  # between the two planes that one slice averages
ALIGNED_LEVEL = 0.20  # of an MRI slice in the plane of a CT slice: the one that cuts the most findings
CT_NOISE = 18.0  # HU
MRI_DEPTHS = (-0.09, -0.03, 0.03, 0.09)  # of the planes that one thick coronal slice averages
CONTRASTS = {"T1w": (500.0, 12.0), "T2w": (4000.0, 90.0), "PDw": (4000.0, 15.0)}  # TR, TE in ms
MRI_NOISE = 0.015
DEPTH, LATERAL_DEPTH = 24, 64  # samples along the X-ray beam
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


@dataclass(frozen=True)
class Scene:
    """What is to be seen in one image. Lesions vary by a generator of their own, which two images that show
    the same ones both have from its start; where it is the image's, lesions are painted before the noise."""

    body: Body
    readings: np.ndarray  # int8 [imaging findings]
    lesions: np.random.Generator

    def canvas(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, *, mri: bool = False) -> Canvas:
        canvas = Canvas(self.body, x, y, z, mri=mri)
        paint_lesions(canvas, self.readings, self.lesions)
        return canvas


def xray(scene: Scene, size: int, degraded: bool, rng: np.random.Generator) -> np.ndarray:
    """Frontal view [1, size, size], 0 (air) to about 1 (dense), patient's right on the left."""
    axis = _axis(size)
    y = np.linspace(-0.62, 0.62, DEPTH)
    canvas = scene.canvas(axis, y, axis)
    p = line_integral(canvas.volume[0], CM * (y[1] - y[0]))[::-1]
    return _film(p, PHOTONS, LOG_RANGE, degraded, rng)


def xray_lateral(scene: Scene, size: int, degraded: bool, rng: np.random.Generator) -> np.ndarray:
    """View from the patient's left [1, size, size], 0 (air) to about 1 (dense), front on the left."""
    axis = _axis(size)
    x = np.linspace(-1.05, 1.05, LATERAL_DEPTH)
    canvas = scene.canvas(x, axis, axis)
    p = line_integral(canvas.volume[0].swapaxes(1, 2), CM * (x[1] - x[0]))[::-1]
    return _film(p, LATERAL_PHOTONS, LATERAL_RANGE, degraded, rng)


def ct(scene: Scene, size: int, degraded: bool, rng: np.random.Generator) -> np.ndarray:
    """Axial slices [4, size, size] in HU, front at the top, patient's right on the left."""
    planes = np.concatenate([_planes(level) for level in CT_LEVELS[::-1]])
    canvas = scene.canvas(_axis(size), _axis(size), planes)
    hu = canvas.volume[0].reshape(len(CT_LEVELS), 2, size, size).mean(axis=1)[::-1]
    if degraded:
        hu = _blur(hu)
    noise = rng.normal(0, CT_NOISE * (6 if degraded else 1), hu.shape)
    return np.maximum(hu + _blur(noise) * 2.0, -1024).astype(np.float32)


def mri(scene: Scene, size: int, degraded: bool, rng: np.random.Generator) -> np.ndarray:
    """One thick coronal slice in three contrasts [3, size, size], relative signal."""
    canvas = scene.canvas(_axis(size), np.array(MRI_DEPTHS), _axis(size), mri=True)
    return _received(_contrasts(canvas).mean(axis=2)[:, ::-1], degraded, rng)


def mri_aligned(scene: Scene, size: int, degraded: bool, rng: np.random.Generator) -> np.ndarray:
    """The slice of `ct` at ALIGNED_LEVEL in three contrasts [3, size, size], relative signal."""
    canvas = scene.canvas(_axis(size), _axis(size), _planes(ALIGNED_LEVEL), mri=True)
    return _received(_contrasts(canvas).mean(axis=1), degraded, rng)


def _planes(level: float) -> np.ndarray:
    """Heights of the two planes that an axial slice averages."""
    return np.array([level - CT_THICKNESS / 2, level + CT_THICKNESS / 2])


def _film(
    p: np.ndarray, photons: float, white: float, degraded: bool, rng: np.random.Generator
) -> np.ndarray:
    """Line integrals [size, size] as a radiograph [1, size, size]."""
    if degraded:
        p = _blur(p)
    return (detect(p, photons / (40 if degraded else 1), rng) / white)[None].astype(np.float32)


def _contrasts(canvas: Canvas) -> np.ndarray:
    """The signal in each contrast, [3, Z, Y, X]."""
    pd, t1, t2 = canvas.volume
    return np.stack([spin_echo(pd, t1, t2, *times) for times in CONTRASTS.values()])


def _received(images: np.ndarray, degraded: bool, rng: np.random.Generator) -> np.ndarray:
    """Signals [3, size, size] as the coil receives them."""
    if degraded:
        images = _blur(images)
    images = images * _bias_field(images.shape[-1], rng)
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
