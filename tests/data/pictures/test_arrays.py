"""Arrays in files, read by several threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from robustmdiff.data.modality import Modality
from robustmdiff.data.pictures.read import read_image


def test_one_thread_at_a_time_reads_a_header(tmp_path, monkeypatch):
    """Or CPython refuses a sound one now and then."""
    load, reading, most = np.load, [], []

    def slowly(*args, **kwargs):
        reading.append(1)
        most.append(len(reading))
        time.sleep(0.01)
        found = load(*args, **kwargs)
        reading.pop()
        return found

    monkeypatch.setattr(np, "load", slowly)
    modality = Modality("xray", "image", shape=(1, 4, 4), window=(0, 20))
    for i in range(12):
        np.save(tmp_path / f"{i}.npy", np.full((4, 4), i, np.float32))
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda i: read_image(tmp_path / f"{i}.npy", modality), range(12)))
    assert [float(pixels.mean()) for pixels in found] == list(range(12))
    assert max(most) == 1
