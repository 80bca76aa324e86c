"""Why a class got its probability: gradients per modality, and integrated gradients down to
pixels, words and cells.

All of it explains the direct path p_c(x(m)), `model.direct(encoded)`: what is observed, through the head,
without a draw. It is the diagnosis where a head answers; where the draws do, their mean may differ a little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustmdiff.data.batch import Batch
from robustmdiff.data.collate import Collator
from robustmdiff.data.kinds import KINDS
from robustmdiff.data.kinds.kind import Spans
from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.encoder import Embedded, Encoder, KindEncoder
from robustmdiff.encoders.kinds import ENCODERS
from robustmdiff.encoders.modalities import summaries
from robustmdiff.encoders.tensors import tensors

AT_ONCE = 16  # points of the path per forward pass


class Reading(NamedTuple):
    """One patient as a model reads them, made once for all that is to be explained.

    batch  of this patient alone, on the model's device
    spans  by text modality that is there, the characters [start, end) behind each token; start = end for a
           special one
    K      [k, d_h], the embedded concepts, which are no part of the patient
    """

    patient: Patient
    batch: Batch
    spans: Mapping[str, Spans]
    K: Tensor


def read(model: RobustMDiff, patient: Patient, collator: Collator, K: Tensor | None = None) -> Reading:
    """K: from `model.embed_concepts`, for who reads many patients with the same weights. Raises DataError for
    a patient that is not what the task declares."""
    texts = ((each.name, patient.modalities.get(each.name)) for each in model.task.of_kind("text"))
    spans = {name: collator.spans(text) for name, text in texts if isinstance(text, str)}
    batch = tensors(collator([patient]), next(model.parameters()).device)
    with torch.no_grad():
        return Reading(patient, batch, spans, model.embed_concepts() if K is None else K)


@dataclass(frozen=True)
class Attribution:
    """What made up p_c, signed; positive speaks for class c. Modalities by name, present ones only; all
    numbers are probabilities, or shares of one.

    target       c.
    probability  p_c of the direct path; baseline: p_c once every modality present says nothing.
    gradient     |dp_c/dH_i|, see `gradient_norms`.
    total        per modality; together they are probability - baseline - completeness_error.
    parts        per modality with a total, as its kind tells them (`Kind.told`): of an image float32
                 [C, H, W], adding up to its total; of a text each `Word`, none of them beyond the model's
                 longest text; of a panel by field, the measured ones.
    """

    target: int
    probability: float
    baseline: float
    completeness_error: float
    gradient: dict[str, float]
    total: dict[str, float]
    parts: dict[str, Any]


def attribute(model: RobustMDiff, reading: Reading, target: int, *, steps: int = 64) -> Attribution:
    """Integrated gradients (Sundararajan et al. 2017) of p_target along one straight path for all
    modalities at once, from a patient whose modalities are there but say nothing: an image blurred
    by 1/8 of its side, a text whose words have embedding 0, a panel in which nothing was measured.

    steps is the number of points on the path; more of them make `completeness_error` smaller. A
    modality whose encoder has no `embed` and `encode` (a text or a panel read by a class of the user's
    own, a text model that reads ids alone) is held as it is: it has a gradient, but no total and no
    parts. Parameters, their gradients and the model's mode are left as they were.
    """
    classes = len(model.task.classes)
    if not 0 <= target < classes:
        raise ValueError(f"attribute: target is {target}, expected a class from 0 to {classes - 1}")
    if steps < 1:
        raise ValueError(f"attribute: steps is {steps}, expected at least 1")
    training = model.training
    model.eval()
    try:
        path = StraightPath(model, reading)
        with torch.no_grad():
            p, nothing = (path.probability(*x)[0, target].item() for x in (path.end, path.beginning))
            encoded = path.encode(*path.end)
        gradient = gradient_norms(model, encoded, target)
        parts = path.integrate(target, steps)
    finally:
        model.train(training)
    total = {name: float(part.double().sum()) for name, part in parts.items()}
    told = {}
    for name, part in parts.items():
        modality = model.task.modality(name)
        own, spans = path.entries[name].encoder.parts(part).cpu(), reading.spans.get(name, ())
        told[name] = KINDS[modality.kind].told(modality, reading.patient.modalities[name], own, spans)
    return Attribution(
        target=target,
        probability=p,
        baseline=nothing,
        completeness_error=p - nothing - sum(total.values()),
        gradient=gradient,
        total=total,
        parts=told,
    )


def gradient_norms(model: RobustMDiff, encoded: Encoded, target: int) -> dict[str, float]:
    """A_ic = |dp_c/dH_i| of one encoded patient, by modality present: the norm of the gradient with respect
    to all that modality i's encoder gave, its summary and its tokens. How much p_c would move, not which
    way; the paper's modality attribution."""
    if not len(encoded.tokens):
        return {}
    tokens = encoded.tokens.detach().requires_grad_()
    encoded = encoded._replace(tokens=tokens, H=summaries(tokens, encoded.segments))
    with torch.enable_grad():
        p = model.direct(model.inform(encoded, encoded.K))[0, target]
    (gradient,) = torch.autograd.grad(p, tokens)
    segments = zip(model.task.modality_names, encoded.segments[0].tolist(), strict=True)
    return {name: gradient[first : first + n].norm().item() for name, (first, n) in segments if n}


class Entry(NamedTuple):
    """Where the path enters one modality's encoder.

    beginning, end  [1, ...], both as `Embedded.x`; lengths as there
    """

    encoder: Encoder
    beginning: Tensor
    end: Tensor
    lengths: Tensor | None


def _enter(encoder: nn.Module, kind: type[KindEncoder], observations: Any, spans: Spans) -> Entry | None:
    """None for an encoder that can only be held as it is."""
    entered = encoder if isinstance(encoder, Encoder) else kind.entered(encoder)
    if entered is None:
        return None
    x, lengths = entered.embed(observations)
    if not x.is_floating_point():
        return None
    return Entry(entered, kind.silent(entered, observations, spans), x, lengths)


class StraightPath:
    """The path of one patient from modalities that say nothing to what they say, in the terms of the
    encoders' `embed`. Its points are x, one [n, ...] for each of `entries` and in their order."""

    def __init__(self, model: RobustMDiff, reading: Reading) -> None:
        self.model, self.K = model, reading.K
        self.entries: dict[str, Entry] = {}
        self.held: dict[str, tuple[Tensor, Tensor]] = {}  # what the other encoders gave
        with torch.no_grad():
            for modality in model.task.modalities:
                name, observations = modality.name, reading.batch.inputs[modality.name]
                if not len(observations.rows):
                    continue
                encoder = model.encoders.encoders[name]
                entry = _enter(encoder, ENCODERS[modality.kind], observations, reading.spans.get(name, ()))
                if entry is None:
                    self.held[name] = encoder(observations)
                else:
                    self.entries[name] = entry
        self.beginning = tuple(entry.beginning for entry in self.entries.values())
        self.end = tuple(entry.end for entry in self.entries.values())

    def encode(self, *x: Tensor) -> Encoded:
        """-> n patients, who differ in x alone."""
        n = len(x[0]) if x else 1
        rows = torch.arange(n, device=self.K.device)
        outputs = {
            name: (rows, tokens.repeat(n, 1), lengths.repeat(n))
            for name, (tokens, lengths) in self.held.items()
        }
        for (name, entry), points in zip(self.entries.items(), x, strict=True):
            lengths = None if entry.lengths is None else entry.lengths.repeat(n)
            outputs[name] = (rows, *entry.encoder.encode(Embedded(points, lengths)))
        return self.model.inform(self.model.encoders.side_by_side(outputs, n), self.K)

    def probability(self, *x: Tensor) -> Tensor:
        """-> [n, C]."""
        return self.model.direct(self.encode(*x))

    def integrate(self, target: int, steps: int) -> dict[str, Tensor]:
        """What each number of each modality's x did for class `target`, as x of the one patient, float32."""
        if not self.end:
            return {}
        from captum.attr import IntegratedGradients

        parts = IntegratedGradients(self.probability).attribute(
            self.end, baselines=self.beginning, target=target, n_steps=steps, internal_batch_size=AT_ONCE
        )
        return {name: part[0].detach().float() for name, part in zip(self.entries, parts, strict=True)}
