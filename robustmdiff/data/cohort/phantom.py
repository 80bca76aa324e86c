"""A thorax in three dimensions, painted tissue by tissue onto any grid.

Coordinates are normalised to the body: x from the patient's right (-1) to left (1), y from front
to back, z from below to above; one unit is 20 cm. The same painter fills a volume of attenuation
(X-ray, CT) or of proton density, T1 and T2 (MRI)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

CM = 20.0  # centimetres per unit of length

# HU; proton density (relative), T1 and T2 in ms at 1.5 T
TISSUES = {
    "air": (-1000.0, 0.0, 1000.0, 50.0),
    "lung": (-840.0, 0.22, 1200.0, 40.0),
    "hazy lung": (-420.0, 0.50, 1250.0, 80.0),
    "consolidation": (30.0, 0.80, 1300.0, 110.0),
    "fluid": (10.0, 1.00, 3200.0, 600.0),
    "mass": (45.0, 0.80, 1000.0, 75.0),
    "node": (40.0, 0.85, 1150.0, 95.0),
    "septum": (0.0, 0.75, 1100.0, 70.0),
    "blood": (50.0, 0.45, 1400.0, 60.0),  # flowing: most of the signal is lost
    "heart": (45.0, 0.80, 1000.0, 50.0),
    "muscle": (50.0, 0.75, 900.0, 42.0),
    "liver": (60.0, 0.72, 580.0, 45.0),
    "fat": (-95.0, 0.90, 260.0, 75.0),
    "bone": (600.0, 0.40, 400.0, 55.0),
}


@dataclass(frozen=True)
class Body:
    """What differs from patient to patient, and is the same in all their images."""

    scale: tuple[float, float, float]
    shift: tuple[float, float, float]
    fat: float
    heart: float
    dome: float
    apex: float
    rib_phase: float
    vessels: int
    density: float  # HU added to normal lung

    @staticmethod
    def draw(rng: np.random.Generator) -> Body:
        x, y, z, dx, dz = rng.normal(0, (0.03, 0.04, 0.025, 0.012, 0.015))
        fat, heart, dome, apex = rng.normal(0, (0.02, 0.05, 0.02, 0.02))
        return Body(
            scale=(1 + x, 1 + y, 1 + z), shift=(dx, 0.0, dz), fat=0.08 + fat, heart=1 + heart, dome=dome,
            apex=apex, rib_phase=rng.normal(0, 0.08), vessels=int(rng.integers(4)), density=rng.normal(0, 12),
        )  # fmt: skip


class Canvas:
    """A volume [properties, Z, Y, X] float32 on the grid x [X], y [Y], z [Z], and a brush."""

    def __init__(self, body: Body, x: np.ndarray, y: np.ndarray, z: np.ndarray, *, mri: bool = False):
        self.body = body
        axes = zip((x, y, z), body.scale, body.shift, strict=True)
        self.x, self.y, self.z = ((a - shift) / scale for a, scale, shift in axes)
        self.mri = mri
        self.voxel = float(max(abs(self.x[1] - self.x[0]), 0.03))
        shape = (len(z), len(y), len(x))
        self.volume = np.empty((3 if mri else 1, *shape), dtype=np.float32)
        self.volume[:] = self._value("air")
        self.lung = np.zeros(shape, dtype=np.float32)
        self._anatomy()

    def _value(self, tissue: str) -> np.ndarray:
        properties = TISSUES[tissue]
        value = np.array(properties[1:] if self.mri else properties[:1], dtype=np.float32)
        if tissue == "lung" and not self.mri:
            value = value + np.float32(self.body.density)
        return value[:, None, None, None]

    def paint(self, tissue: str, alpha: np.ndarray, box: tuple[slice, slice, slice] | None = None) -> None:
        """volume <- (1 - alpha) volume + alpha tissue, inside the box [z, y, x]."""
        part = self.volume[(slice(None), *box)] if box else self.volume
        part += alpha * (self._value(tissue) - part)

    def box(self, centre: tuple[float, ...], radii: tuple[float, ...]) -> tuple[slice, slice, slice]:
        """The grid's part that an ellipsoid (with its soft edge) can touch."""
        slices = []
        for axis, c, r in zip((self.x, self.y, self.z), centre, radii, strict=True):
            reach = 1.5 * r + self.voxel
            slices.append(slice(*np.searchsorted(axis, (c - reach, c + reach))))
        return slices[2], slices[1], slices[0]

    def local(self, box: tuple[slice, slice, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y, z inside the box, ready to broadcast."""
        return (
            self.x[box[2]][None, None, :].astype(np.float32),
            self.y[box[1]][None, :, None].astype(np.float32),
            self.z[box[0]][:, None, None].astype(np.float32),
        )

    def ellipsoid(
        self, centre: tuple[float, ...], radii: tuple[float, ...], box: tuple[slice, slice, slice]
    ) -> np.ndarray:
        """Soft indicator of an ellipsoid, falling from 1 to 0 over about one voxel."""
        x, y, z = ((a - c) / r for a, c, r in zip(self.local(box), centre, radii, strict=True))
        return _inside(x * x + y * y + z * z, min(radii) / (2 * self.voxel))

    def blob(
        self, tissue: str, centre: tuple[float, ...], radii: tuple[float, ...], opacity: float = 1.0
    ) -> None:
        box = self.box(centre, radii)
        self.paint(tissue, opacity * self.ellipsoid(centre, radii, box), box)

    def _anatomy(self) -> None:
        body, soft = self.body, 1 / (2 * self.voxel)
        x, y, z = self.local((slice(None), slice(None), slice(None)))
        # Trunk: a cylinder that widens to the shoulders and narrows to the neck.
        shoulders, neck = _rise(z, 0.40, 0.10), _rise(z, 0.86, 0.05)
        wide = (0.82 + 0.16 * shoulders) * (1 - 0.68 * neck)
        deep = 0.56 * (1 - 0.42 * neck)
        self.paint("fat", _inside((x / wide) ** 2 + (y / deep) ** 2, 0.3 * soft))
        wide, deep = wide - body.fat, deep - 0.8 * body.fat
        self.paint("muscle", _inside((x / wide) ** 2 + (y / deep) ** 2, 0.3 * soft))
        # Lungs, cut off below by the diaphragm's domes.
        for side in (-1, 1):
            centre = (side * 0.385, 0.0, 0.06)
            box = self.box(centre, (0.285, 0.36, 0.62 + body.apex))
            u, v, w = self.local(box)
            q = ((u - centre[0]) / 0.285) ** 2 + (v / 0.36) ** 2
            q = q + (np.abs(w - centre[2]) / (0.62 + body.apex)) ** 3
            floor = -0.40 - 0.04 * side + body.dome - 1.1 * (u - side * 0.33) ** 2 - 0.9 * (v + 0.05) ** 2
            lung = _inside(q, 0.28 * soft) * np.clip((w - floor) * (2 * soft) + 0.5, 0, 1)
            part = self.lung[box]
            np.maximum(part, lung, out=part)
            self.paint("lung", lung, box)
        # Ribs: a cage around the lungs, cut into bands that slope downwards to the front.
        cage = (x / 0.735) ** 2 + (y / 0.455) ** 2 + (np.maximum(z - 0.1, 0) / 0.72) ** 2
        shell = np.minimum(1 - cage, cage * 1.19 - 1) * (0.4 * soft) + 0.5
        bands = np.cos(2 * np.pi * (5.2 * (z - 0.42 * y) + body.rib_phase))
        self.paint("bone", 0.9 * np.clip(shell, 0, 1) * np.clip(bands * 2 - 0.4, 0, 1))
        self.blob("liver", (0.0, 0.0, -0.78), (0.70, 0.40, 0.36))
        # Mediastinum.
        r = 0.24 * body.heart
        self.blob("fat", (0.0, -0.12, 0.22), (0.13, 0.22, 0.34), 0.7)
        self.blob("heart", (0.10, -0.12, -0.20), (1.15 * r, 0.26, r))
        self.blob("blood", (0.12, -0.12, -0.18), (0.62 * r, 0.14, 0.6 * r))
        self.blob("blood", (0.09, 0.20, 0.0), (0.055, 0.06, 0.60))  # descending aorta
        self.blob("blood", (0.08, 0.0, 0.24), (0.115, 0.16, 0.07))  # arch
        self.blob("blood", (-0.10, -0.05, 0.18), (0.045, 0.05, 0.30))  # vena cava
        self.blob("blood", (0.11, -0.06, 0.10), (0.10, 0.09, 0.05))  # pulmonary trunk
        self.blob("air", (0.0, 0.03, 0.55), (0.042, 0.045, 0.42))  # trachea
        for side in (-1, 1):
            self.blob("air", (side * 0.07, 0.03, 0.09), (0.08, 0.035, 0.035))
        self.paint("blood", self._vessels() * self.lung * np.float32(0.6))
        # Spine: vertebrae with discs between them, and the processes behind.
        box = self.box((0.0, 0.30, 0.0), (0.085, 0.10, 2.0))
        x, y, z = self.local(box)
        column = _inside((x / 0.085) ** 2 + ((y - 0.30) / 0.10) ** 2, 0.09 * soft)
        discs = np.clip(np.cos(2 * np.pi * 6.5 * (z + 0.02)) * 3 + 2.2, 0.25, 1)
        self.paint("bone", 0.55 * column * discs, box)
        self.blob("bone", (0.0, 0.43, 0.0), (0.05, 0.08, 4.0), 0.5)
        for side in (-1, 1):
            self.blob("bone", (side * 0.36, -0.30, 0.70), (0.30, 0.05, 0.035), 0.6)  # clavicle

    def _vessels(self) -> np.ndarray:
        tree = _vessel_tree(self.body.vessels)
        for axis, a in enumerate((self.z, self.y, self.x)):
            tree = tree.take(np.clip(((a + 1) * 32).astype(int), 0, 63), axis=axis)
        return tree


def _inside(q: np.ndarray, sharpness: float) -> np.ndarray:
    """Soft indicator of q < 1."""
    return np.clip((1 - q) * sharpness + 0.5, 0, 1)


def _rise(z: np.ndarray, middle: float, width: float) -> np.ndarray:
    return 1 / (1 + np.exp(-(z - middle) / width))


@lru_cache(maxsize=4)
def _vessel_tree(kind: int) -> np.ndarray:
    """Branching pulmonary vessels on the cube [-1, 1]^3: float32 [64, 64, 64] opacity."""
    rng = np.random.default_rng([kind, *b"vessels"])
    tree = np.zeros((64, 64, 64), dtype=np.float32)

    def grow(start: np.ndarray, direction: np.ndarray, radius: float, length: float, depth: int) -> None:
        for t in np.linspace(0, 1, 12):
            at = (start + t * length * direction + 1) * 32  # x, y, z in voxels
            low = np.clip(np.floor(at).astype(int) - 2, 0, 59)
            near = np.arange(5)
            d2 = sum(
                np.expand_dims((low[i] + near + 0.5 - at[i]) ** 2, tuple({0, 1, 2} - {2 - i}))
                for i in range(3)
            )
            spot = np.clip(radius * 32 + 0.8 - np.sqrt(d2), 0, 1)
            part = tree[low[2] : low[2] + 5, low[1] : low[1] + 5, low[0] : low[0] + 5]
            np.maximum(part, spot, out=part)
        if depth:
            for _ in range(2 + (depth == 3)):
                turn = direction + rng.normal(0, 0.55, 3)
                end = start + length * direction
                grow(end, turn / np.linalg.norm(turn), 0.72 * radius, 0.8 * length, depth - 1)

    for side in (-1, 1):
        for z in (-0.75, -0.2, 0.3, 0.8):
            direction = np.array([side * 0.75, rng.normal(0, 0.4), z])
            grow(np.array([side * 0.13, 0.0, 0.06]), direction / np.linalg.norm(direction), 0.032, 0.15, 3)
    return tree
