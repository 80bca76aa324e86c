"""The latents of a model that no longer changes: patients under partial views, and under fuller ones.

Encoders run once over the patients; what is learned on the latents afterwards takes seconds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.asking import BATCH, encode, evaluating, under
from robustmdiff.diagnosis.calibration import Collate
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.diagnosis.second_stage import WEIGHTS, SecondStage
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.forecast.contract import Pairs, Seen
from robustmdiff.ranking import Bools

VIEWS = 2**14  # partial views in all, more of each patient the fewer patients there are,
MOST, FEWEST = 63, 4  # but at most all of six modalities, and at least a few


def pairs_of(
    model: RobustMDiff,
    patients: Sequence[Patient],
    collator: Collate,
    seed: int,
    watching: Sequence[Patient] = (),
) -> Pairs:
    """Partial views of each patient (all, where they are few), twice each: beside the view of everything that
    the patient has, and beside that of one modality more. On the model's device, in float32.

    A patient who has nothing has no partial view. The model stays in its mode. Patients are numbered as they
    come, those who watch (see `Pairs`) after the others.
    """
    fitted, patients = len(patients), [*patients, *watching]
    chooser = random.Random(seed)
    each = min(max(VIEWS // max(len(patients), 1), FEWEST), MOST)
    parts = []
    with evaluating(model):
        starts = range(0, len(patients), BATCH)
        for start in tqdm(starts, desc="latents", unit="batch", disable=None, leave=False):
            batch = collator(patients[start : start + BATCH])
            pairs = _pairs(model, encode(model, batch), each, chooser)
            whose = pairs.patient.cpu()
            label, known = (
                torch.as_tensor(x)[whose].to(pairs.y.device) for x in (batch.label, batch.label_known)
            )
            patient = pairs.patient + start
            parts.append(
                pairs._replace(label=label, known=known, patient=patient, watching=patient >= fitted)
            )
    return Pairs.join(parts)


def fit_second_stage(
    model: RobustMDiff,
    fitting: Sequence[Patient],
    watching: Sequence[Patient],
    collator: Collate,
    kind: str,
    seed: int,
    folder: Path,
) -> None:
    """Gives the model a second stage, kept in the folder; one that is there is taken.

    fitting   patients whom the model was trained on: what is learned, is learned from them
    watching  others, who choose weights and tell how sure to be; may be empty
    """
    if (folder / WEIGHTS).exists():
        model.second_stage = SecondStage.load(folder, model).to(model.log_prior.device)
        return
    stage = SecondStage(kind, model)
    stage.fit(model, pairs_of(model, fitting, collator, seed, watching), seed)
    stage.save(folder)
    model.second_stage = stage


def partial_views(present: Bools, n: int, chooser: random.Random) -> tuple[Bools, Bools]:
    """Up to n distinct subsets, short of all, of the modalities present, bool [M] -> bool [k, M]; and each
    with one modality more of those present, bool [k, M]."""
    at = np.flatnonzero(present)
    partial = 2 ** len(at) - 1  # the last code is that of everything
    code = np.array(chooser.sample(range(partial), min(n, partial)), dtype=np.int64)
    m = np.zeros((len(code), len(present)), dtype=bool)
    m[:, at] = (code[:, None] >> np.arange(len(at))) & 1 == 1
    more = m.copy()
    for row in more:
        row[chooser.choice(np.flatnonzero(present & ~row))] = True
    return m, more


def _pairs(model: RobustMDiff, encoded: Encoded, each: int, chooser: random.Random) -> Pairs:
    """Those of a batch; `patient` counts within it; label, known and watching are left to fill in."""
    present = encoded.m.cpu().numpy()
    views = [partial_views(row, each, chooser) for row in present]
    K = max(len(m) for m, _ in views)
    asked = np.stack([present] * (1 + 2 * K))  # bool [1 + 2 K, B, M]: everything, K views, K with one more
    for i, (some, more) in enumerate(views):
        asked[1 : 1 + len(some), i], asked[1 + K : 1 + K + len(some), i] = some, more

    def ask(view: Encoded) -> Tensor:
        y = model.condense(model.observe(view))
        return torch.cat([y, model.probability_from(y)], dim=-1)

    device, C = encoded.segments.device, len(model.task.classes)
    said = torch.from_numpy(under(encoded, asked, ask)).float().to(device)
    y, p = said[..., :-C], said[..., -C:]
    assert encoded.evidence is not None
    there = np.array([[k < len(m) for m, _ in views] for k in range(K)], dtype=bool).reshape(K, len(views))
    k, b = (torch.from_numpy(x).to(device) for x in np.nonzero(there))
    parts = []
    for fuller in (torch.zeros_like(k), 1 + K + k):
        m, view = (torch.from_numpy(asked).to(device)[which, b] for which in (1 + k, fuller))
        evidence = [model.together(encoded.evidence[b], of) for of in (m, view)]
        seen = Seen(y[1 + k, b], m, evidence[0], p[1 + k, b])
        parts.append(Pairs(seen, view, y[fuller, b], evidence[1], b, b, b, b))
    return Pairs.join(parts)
