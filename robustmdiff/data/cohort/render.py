"""Readings to observations: rendered once, kept in a cache that is checked when it is opened."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustmdiff.data.cohort import imaging, panel, report
from robustmdiff.data.cohort.config import CohortConfig
from robustmdiff.data.cohort.draw import Draw
from robustmdiff.data.cohort.phantom import Body
from robustmdiff.data.cohort.table import IMAGING, MODALITIES
from robustmdiff.data.patient import DataError

# Missingness is applied after rendering: cohorts that differ only there share their cache.
_NOT_RENDERED = ("missingness", "rate", "cell_rate")
_SOURCES = ("table", "organs", "draw", "phantom", "lesions", "imaging", "report", "panel", "render")


class View(NamedTuple):
    """One kind of image. `shows` is the modality whose readings and lesions are in it."""

    make: Callable[[imaging.Scene, int, bool, np.random.Generator], np.ndarray]
    channels: int
    shows: str


def views(config: CohortConfig) -> dict[str, View]:
    """The image modalities of a cohort."""
    made = {
        "xray": View(imaging.xray, 1, "xray"),
        "ct": View(imaging.ct, len(imaging.CT_LEVELS), "ct"),
        "mri": View(imaging.mri, len(imaging.CONTRASTS), "mri"),
    }
    if config.aligned:
        made["mri"] = View(imaging.mri_aligned, len(imaging.CONTRASTS), "ct")
    if config.lateral:
        made["xray_lateral"] = View(imaging.xray_lateral, 1, "xray")
    return made


def names(config: CohortConfig) -> tuple[str, ...]:
    """All modalities of a cohort, in order."""
    return MODALITIES + (("xray_lateral",) if config.lateral else ())


@dataclass(frozen=True)
class Rendering:
    """images by modality: float16 [n, channels, size, size], mapped from disk; records: per patient
    {"text": str, "structured": {finding: value}, "genomic": {finding: call}}."""

    images: dict[str, np.ndarray]
    records: list[dict[str, Any]]


def cache_root(cache: str | os.PathLike[str] | None = None) -> Path:
    """`cache`, else $RMD_CACHE, else ~/.cache/robustmdiff."""
    named = cache or os.environ.get("RMD_CACHE")
    if named:
        return Path(named)
    home = os.path.expanduser("~")
    return Path(home, ".cache", "robustmdiff") if home != "~" else _passing()  # a user without a home


@functools.cache
def _passing() -> Path:
    """A folder for this process alone."""
    folder = tempfile.mkdtemp(prefix="robustmdiff-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def render_key(config: CohortConfig) -> str:
    """Names what is rendered: the settings that matter and the source code that renders."""
    settings = {k: v for k, v in asdict(config).items() if k not in _NOT_RENDERED}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for module in _SOURCES:
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return digest.hexdigest()[:20]


def rendering(
    config: CohortConfig, drawn: Draw, degraded: np.ndarray, cache: str | os.PathLike[str] | None = None
) -> Rendering:
    """The cohort's observations, from the cache or rendered into it (about 15 ms a patient and
    core). A damaged cache is rendered again, with a warning. Where the usual place cannot be written
    (a home that is read-only or not there) it is rendered for this process alone, with a warning;
    a place that was asked for is a DataError. An interrupted rendering leaves nothing behind."""
    folder = cache_root(cache) / f"cohort-{render_key(config)}"
    if folder.exists():
        try:
            return _open(folder, config)
        except (OSError, ValueError, KeyError) as error:
            warnings.warn(f"{folder} is damaged ({error}): rendering it again", stacklevel=2)
            shutil.rmtree(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        if cache is None and not os.environ.get("RMD_CACHE"):
            warnings.warn(
                f"{folder.parent}: cannot be written ({error.strerror}): the cohort is rendered for this "
                "process alone; set RMD_CACHE to keep it",
                stacklevel=2,
            )
            return rendering(config, drawn, degraded, _passing())
        raise DataError(
            f"{folder.parent}: cannot write the cohort's cache ({error}); set RMD_CACHE"
        ) from error
    try:
        _render_into(scratch, config, drawn, degraded)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster with the same content
                raise
        return _open(folder, config)
    except OSError as error:
        raise DataError(f"{folder}: cannot write the cohort's cache ({error}); set RMD_CACHE") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _render_into(folder: Path, config: CohortConfig, drawn: Draw, degraded: np.ndarray) -> None:
    from tqdm.auto import tqdm

    n, size = len(drawn.labels), config.image_size
    images = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=np.float16, shape=(n, channels, size, size)
        )
        for name, (_, channels, _) in views(config).items()
    }
    column = {name: m for m, name in enumerate(names(config))}

    def one(i: int) -> dict[str, Any]:
        body = Body.draw(_rng(config, i, "body"))
        for name, (make, _, shows) in views(config).items():
            rng = _rng(config, i, name)
            lesions = rng if shows == name else _rng(config, i, shows)
            seen = drawn.readings[i, MODALITIES.index(shows), : len(IMAGING)]
            scene = imaging.Scene(body, seen, lesions)
            images[name][i] = make(scene, size, bool(degraded[i, column[name]]), rng)
        return {
            name: make(drawn.readings[i, m], bool(degraded[i, m]), _rng(config, i, name))
            for name, make in (
                ("text", report.write), ("structured", panel.measure), ("genomic", panel.genotype),
            )
            for m in (MODALITIES.index(name),)
        }  # fmt: skip

    with (
        ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool,
        open(folder / "records.jsonl", "w", encoding="utf-8") as file,
    ):
        for record in tqdm(pool.map(one, range(n)), total=n, desc="rendering patients", unit="patient"):
            file.write(json.dumps(record) + "\n")
    for array in images.values():
        array.flush()
    checksums = {path.name: _checksum(path) for path in sorted(folder.iterdir())}
    (folder / "manifest.json").write_text(json.dumps(checksums, indent=1), encoding="utf-8")


def _rng(config: CohortConfig, i: int, name: str) -> np.random.Generator:
    return np.random.default_rng([config.seed, i, *name.encode()])


def _open(folder: Path, config: CohortConfig) -> Rendering:
    checksums = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name, expected in checksums.items():
        if _checksum(folder / name) != expected:
            raise ValueError(f"{name} does not match its checksum")
    with open(folder / "records.jsonl", encoding="utf-8") as file:
        records = list(_records(file))
    images = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in views(config)}
    return Rendering(images, records)


def _records(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        record = json.loads(line)
        for name in ("structured", "genomic"):
            record[name] = {int(f): value for f, value in record[name].items()}
        yield record


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
