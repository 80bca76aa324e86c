"""The graph's inputs as arrays of a client: what they have to be, joined for one call, and split after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from robustmdiff.data.kinds import KINDS
from robustmdiff.data.kinds.kind import OPEN, Spec
from robustmdiff.data.patient import DataError
from robustmdiff.runtime import Artefact
from robustmdiff.runtime.inputs import VIEW, Arrays, specs_of
from robustmdiff.serving.limits import Limits, Refused

DRAWS_AXIS = {"noise_u": 1, "noise_z": 0}


def input_specs(artefact: Artefact) -> dict[str, Spec]:
    """The inputs, as `export.graph.DiagnosisGraph` lists them. Noise and view may be left out."""
    found = specs_of(artefact.task)
    found |= {name: Spec(x.dtype, (OPEN, *x.shape[1:])) for name, x in artefact.everything(1).items()}
    for name, x in artefact.noise.items():
        opened = (OPEN if axis == DRAWS_AXIS[name] else n for axis, n in enumerate(x.shape))
        found[name] = Spec(x.dtype, tuple(opened))
    return found


def output_specs(said: Arrays) -> dict[str, Spec]:
    """The outputs, as an engine's answer about one patient shows them."""
    opened = {name: 2 if name == "draws" else 1 for name in said}
    return {name: Spec(x.dtype, (OPEN,) * opened[name] + x.shape[opened[name] :]) for name, x in said.items()}


def check(arrays: Arrays, artefact: Artefact, limits: Limits) -> int:
    """The number of patients. Raises Refused for arrays, of the specs' dtypes and shapes, that the engine
    must not be asked."""
    for name, x in arrays.items():
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise Refused(400, f"{name} holds NaN or infinite values, expected finite numbers")
    _check_noise(arrays, artefact, limits)
    first = f"{artefact.task.modality_names[0]}.at"
    B = len(arrays[first])
    if not 1 <= B <= limits.patients:
        raise Refused(400, f"{first} is of {B} patients, expected 1 to {limits.patients}")
    if VIEW in arrays and len(arrays[VIEW]) != B:
        raise Refused(400, f"{VIEW} is of {len(arrays[VIEW])} patients, expected {B} as {first}")
    tokenizer = artefact.collator.tokenizer
    entries = tokenizer.get_vocab_size() if tokenizer is not None else np.iinfo(np.int64).max
    for modality in artefact.task.modalities:
        own = {
            key.rpartition(".")[2]: x for key, x in arrays.items() if key.rpartition(".")[0] == modality.name
        }
        at = own["at"]
        observed = [x for key, x in own.items() if key != "at"]
        n = len(observed[0])
        if len(at) != B or any(len(x) != n for x in observed) or not 1 <= n <= B:
            raise Refused(
                400,
                f"the inputs of {modality.name} disagree in length, expected 'at' of {B} as the others' and "
                f"observations alike, 1 to {B} of them",
            )
        if at.min() < -1 or at.max() >= n:
            raise Refused(400, f"{modality.name}.at points outside, expected -1 to {n - 1}")
        try:
            KINDS[modality.kind].check_arrays(modality, own, entries, artefact.manifest.max_tokens)
        except DataError as error:
            raise Refused(400, str(error)) from None
    return B


def _check_noise(arrays: Arrays, artefact: Artefact, limits: Limits) -> None:
    given = {name: x for name, x in arrays.items() if name in artefact.noise}
    if given and len(given) != len(artefact.noise):
        raise Refused(
            400, f"some of the noise is missing, expected all of {', '.join(artefact.noise)}, or none"
        )
    draws = {x.shape[DRAWS_AXIS[name]] for name, x in given.items()}
    if draws and not (len(draws) == 1 and 1 <= max(draws) <= limits.draws):
        raise Refused(
            400, f"the noise is of {sorted(draws)} draws, expected one number from 1 to {limits.draws}"
        )


def join(feeds: Sequence[Arrays]) -> Arrays:
    """The patients of several feeds in one, without noise: where `at` points moves, texts are padded to the
    longest."""
    joined = {}
    for name in feeds[0]:
        modality, _, what = name.rpartition(".")
        parts = [feed[name] for feed in feeds]
        if what == "at":
            counts = [_observations(feed, modality) for feed in feeds]
            before = np.cumsum([0, *counts[:-1]])
            parts = [np.where(at >= 0, at + n, -1) for at, n in zip(parts, before, strict=True)]
        elif len({x.shape[1:] for x in parts}) > 1:
            longest = max(ids.shape[1] for ids in parts)
            parts = [np.pad(ids, ((0, 0), (0, longest - ids.shape[1]))) for ids in parts]
        joined[name] = np.concatenate(parts)
    return joined


def _observations(feed: Mapping[str, np.ndarray], modality: str) -> int:
    return next(
        len(x) for key, x in feed.items() if key.rpartition(".")[0] == modality and not key.endswith(".at")
    )


def split(said: Arrays, patients: Sequence[int]) -> Iterator[Arrays]:
    """What was said of each feed's patients."""
    ends = np.cumsum(patients)
    for first, end in zip(ends - patients, ends, strict=True):
        yield {name: x[first:end] for name, x in said.items()}
