"""A chain that is driven from outside: `robustmdiff export --sampler single-step`. Numpy and ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from robustmdiff.runtime.inputs import VIEW, Arrays
from robustmdiff.runtime.manifest import MANIFEST

Engine = Callable[[Arrays], Arrays]


def driven(model: Path, load: Callable[[Path], Engine]) -> Engine:
    """model  encode.onnx, beside step.onnx and answer.onnx; `load` gives what runs one of them."""
    folder = model.parent
    encode, step, answer = (load(folder / name) for name in (model.name, "step.onnx", "answer.onnx"))
    chain: Mapping[str, list[list[float]]]
    chain = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["engines"][model.name]
    table, time = (np.array(chain[name], dtype=np.float32) for name in ("table", "time"))

    def run(arrays: Arrays) -> Arrays:
        begun = encode(arrays)
        x, told = begun.pop("x"), begun.pop("told")
        patients, draws = len(begun["present"]), len(arrays["noise_z"])
        state = {"x": x, "x_before": np.zeros_like(x), "o_before": np.zeros_like(x)}
        for e, row in enumerate(table):
            given = state | {"told": told, "time": time[e], "row": row}
            if "noise_steps" in arrays:
                given["noise"] = np.tile(arrays["noise_steps"][e], (patients, 1))
            said = step(given)
            state = {name: said[f"next_{name}"] for name in state}
        given = {name: arrays[name] for name in (VIEW, "noise_u", "noise_z")}
        return answer(begun | given | {"x": state["x"].reshape(patients, draws, -1)})

    return run
