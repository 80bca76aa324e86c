"""How each imaging finding looks: where it lies, of what tissue, with what texture.

Every finding has a place and a texture of its own, so that its reading can be recovered from the
pixels; size, place and opacity vary a little from image to image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from robustmdiff.data.cohort.phantom import Canvas
from robustmdiff.data.cohort.table import IMAGING

Centre = tuple[float, float, float]
Texture = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
RIGHT, LEFT = -1, 1


class Brush:
    """Paints lesions on one canvas with the variation of one image."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator):
        self.canvas, self.rng = canvas, rng

    def spot(
        self,
        tissue: str,
        centre: Centre,
        radii: Centre,
        *,
        opacity: float = 1.0,
        texture: Texture | None = None,
        within_lung: bool = True,
        jitter: float = 0.015,
    ) -> None:
        """An ellipsoid of a tissue, its place jittered (sd in units of 20 cm) and its size by 8 %;
        `texture` maps x, y, z to an opacity in [0, 1]."""
        shift = self.rng.normal(0, jitter, 3)
        size = float(np.clip(self.rng.normal(1, 0.08), 0.8, 1.25))
        at = tuple(c + s for c, s in zip(centre, shift, strict=True))
        r = tuple(radius * size for radius in radii)
        box = self.canvas.box(at, r)
        alpha = opacity * self.canvas.ellipsoid(at, r, box)
        if texture is not None:
            alpha = alpha * texture(*self.canvas.local(box))
        if within_lung:
            alpha = alpha * self.canvas.lung[box]
        self.canvas.paint(tissue, alpha, box)


def stripes(frequency: Centre, threshold: float = 0.2, phase: float = 0.0) -> Texture:
    """Parallel sheets; `frequency` in cycles per unit along x, y, z, `phase` in cycles."""

    def texture(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        cycles = frequency[0] * x + frequency[1] * y + frequency[2] * z + phase
        return np.clip(2 * np.cos(2 * np.pi * cycles) - 2 * threshold, 0, 1)

    return texture


def mesh(period: float, wall: float = 0.35) -> Texture:
    """Walls of tubes that run from front to back, with a cross-wall now and then: a net."""

    def texture(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        cells = np.maximum(np.cos(2 * np.pi * x / period), np.cos(2 * np.pi * z / period))
        cells = np.maximum(cells, np.cos(2 * np.pi * y / (2.5 * period)) - 0.2)
        return np.clip(3 * (cells - 1 + 2 * wall), 0, 1)

    return texture


def beads(period: float) -> Texture:
    """Small nodules in slanting chains; any axial plane cuts some of them."""

    def texture(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        u, w = 2 * np.pi * x / period, 2 * np.pi * z / period
        chain = np.maximum(np.cos(u) * np.cos(w), np.sin(u) * np.sin(w))
        return np.clip(3 * (chain - 0.4), 0, 1) + 0 * y

    return texture


def _lower_consolidation(side: int) -> Callable[[Brush], None]:
    return lambda b: b.spot("consolidation", (side * 0.40, 0.04, -0.22), (0.14, 0.28, 0.13), opacity=0.9)


def _upper_consolidation(b: Brush) -> None:
    b.spot("consolidation", (-0.37, 0.0, 0.45), (0.15, 0.26, 0.12), opacity=0.9)


def _ground_glass(b: Brush) -> None:
    for side in (RIGHT, LEFT):
        b.spot("hazy lung", (side * 0.57, 0.0, 0.12), (0.12, 0.32, 0.22), opacity=0.85)


def _effusion(side: int) -> Callable[[Brush], None]:
    def paint(b: Brush) -> None:
        b.spot("fluid", (side * 0.55, 0.10, -0.38), (0.24, 0.42, 0.16), jitter=0.01)
        b.spot("fluid", (side * 0.66, 0.05, -0.24), (0.05, 0.30, 0.16), jitter=0.01)

    return paint


def _cardiomegaly(b: Brush) -> None:
    b.spot("heart", (0.16, -0.10, -0.22), (0.41, 0.28, 0.27), within_lung=False)


def _septal_lines(b: Brush) -> None:
    for side in (RIGHT, LEFT):
        lines = stripes((0.0, 0.0, 12.5), -0.2)
        b.spot("septum", (side * 0.59, 0.0, -0.05), (0.13, 0.36, 0.15), texture=lines, jitter=0.006)


def _tree_in_bud(b: Brush) -> None:
    b.spot("consolidation", (0.36, 0.0, 0.18), (0.16, 0.30, 0.14), texture=beads(0.15), jitter=0.006)


def _bronchial_walls(b: Brush) -> None:
    for side in (RIGHT, LEFT):
        tubes = stripes((9.0, 0.0, -side * 5.0), 0.2)
        b.spot("septum", (side * 0.23, 0.0, 0.22), (0.09, 0.24, 0.12), texture=tubes, jitter=0.006)


def _hyperinflation(b: Brush) -> None:
    for side in (RIGHT, LEFT):
        b.spot("lung", (side * 0.42, -0.02, -0.47), (0.21, 0.34, 0.10), within_lung=False)
    b.spot("lung", (0.0, -0.34, 0.22), (0.17, 0.06, 0.16), within_lung=False)  # behind the sternum


def _bullae(b: Brush) -> None:
    for side in (RIGHT, LEFT):
        b.spot("septum", (side * 0.35, -0.06, 0.54), (0.15, 0.24, 0.14), opacity=0.8)
        b.spot("air", (side * 0.35, -0.06, 0.54), (0.115, 0.21, 0.11), within_lung=False)


def _pulmonary_artery(b: Brush) -> None:
    b.spot("blood", (0.18, -0.04, 0.13), (0.14, 0.20, 0.11), within_lung=False)


def _infarct(b: Brush) -> None:
    for x, r in ((0.63, 0.085), (0.55, 0.06), (0.48, 0.035)):
        b.spot("consolidation", (x, 0.05, -0.05), (0.06, 0.26, r), jitter=0.008)


def _atelectasis(b: Brush) -> None:
    band = stripes((1.2, 0.0, 4.0), 0.4, phase=0.56)  # one sheet, through the centre
    b.spot("consolidation", (-0.40, 0.0, -0.02), (0.22, 0.32, 0.11), texture=band, jitter=0.008)


def _cavity(b: Brush) -> None:
    b.spot("mass", (0.38, 0.08, 0.47), (0.12, 0.18, 0.12), jitter=0.005)
    b.spot("air", (0.38, 0.08, 0.47), (0.07, 0.13, 0.07), jitter=0.005)


def _mass(b: Brush) -> None:
    b.spot("mass", (-0.36, 0.0, 0.20), (0.105, 0.16, 0.105))


def _mediastinal_nodes(b: Brush) -> None:
    for side, z in ((RIGHT, 0.26), (LEFT, 0.30)):
        b.spot("node", (side * 0.13, -0.02, z), (0.10, 0.17, 0.14), within_lung=False, jitter=0.008)


def _honeycombing(b: Brush) -> None:
    for side in (RIGHT, LEFT):
        b.spot("septum", (side * 0.55, 0.0, -0.26), (0.15, 0.36, 0.13), texture=mesh(0.085), jitter=0.006)


def _traction(b: Brush) -> None:
    for side, x in ((RIGHT, -0.22), (LEFT, 0.33)):
        tubes = stripes((10.0, 0.0, side * 4.0), 0.0)
        b.spot("septum", (x, 0.06, -0.10), (0.10, 0.26, 0.12), texture=tubes, jitter=0.006)


def _crazy_paving(b: Brush) -> None:
    for side in (RIGHT, LEFT):
        b.spot("hazy lung", (side * 0.51, 0.0, 0.40), (0.12, 0.30, 0.13), opacity=0.7, jitter=0.006)
        b.spot("septum", (side * 0.51, 0.0, 0.40), (0.12, 0.30, 0.13), texture=mesh(0.11, 0.25), jitter=0.006)


def _cysts(b: Brush) -> None:
    for x, z in ((-0.28, 0.34), (-0.46, -0.03), (-0.27, -0.24), (0.28, 0.20), (0.50, -0.03), (0.56, 0.34)):
        b.spot("septum", (x, 0.0, z), (0.075, 0.24, 0.075), opacity=0.8, jitter=0.004)
        b.spot("air", (x, 0.0, z), (0.05, 0.20, 0.05), jitter=0.004)


def _pneumothorax(b: Brush) -> None:
    b.spot("septum", (-0.565, -0.02, 0.34), (0.095, 0.29, 0.28), opacity=0.8, jitter=0.006)
    b.spot("air", (-0.59, -0.02, 0.34), (0.08, 0.27, 0.26), within_lung=False, jitter=0.006)


def _nodules(b: Brush) -> None:
    for x, z in ((-0.28, 0.48), (-0.54, 0.20), (-0.24, -0.03), (0.28, 0.48), (0.52, 0.20), (0.60, -0.27)):
        b.spot("mass", (x, 0.0, z), (0.05, 0.10, 0.05), jitter=0.006)


# In painting order: what fills space before what lies in it.
PAINT: dict[str, Callable[[Brush], None]] = {
    "hyperinflation": _hyperinflation,
    "cardiomegaly": _cardiomegaly,
    "ground-glass opacity": _ground_glass,
    "right lower lobe consolidation": _lower_consolidation(RIGHT),
    "left lower lobe consolidation": _lower_consolidation(LEFT),
    "right upper lobe consolidation": _upper_consolidation,
    "right pleural effusion": _effusion(RIGHT),
    "left pleural effusion": _effusion(LEFT),
    "pulmonary artery dilatation": _pulmonary_artery,
    "mediastinal lymphadenopathy": _mediastinal_nodes,
    "crazy paving": _crazy_paving,
    "septal lines": _septal_lines,
    "bronchial wall thickening": _bronchial_walls,
    "traction bronchiectasis": _traction,
    "honeycombing": _honeycombing,
    "tree-in-bud opacities": _tree_in_bud,
    "atelectasis": _atelectasis,
    "wedge-shaped infarct": _infarct,
    "lung mass": _mass,
    "pulmonary nodules": _nodules,
    "cavitary lesion": _cavity,
    "apical bullae": _bullae,
    "thin-walled cysts": _cysts,
    "pneumothorax": _pneumothorax,
}


def paint_lesions(canvas: Canvas, readings: np.ndarray, rng: np.random.Generator) -> None:
    """Paints every imaging finding whose reading is positive; readings int8 [imaging findings]."""
    brush = Brush(canvas, rng)
    for name, paint in PAINT.items():
        if readings[IMAGING.index(name)] == 1:
            paint(brush)
