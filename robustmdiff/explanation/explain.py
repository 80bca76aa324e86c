"""Gathering everything that is to be said about one patient's diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from robustmdiff.data.batch import Batch
from robustmdiff.data.collate import Collator
from robustmdiff.data.modality import Field
from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.abstention import Abstention
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.diagnosis.sets import ConformalSets
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.explanation.acquisition import DRAWS, rank_next_tests
from robustmdiff.explanation.attribution import Attribution, attribute, read
from robustmdiff.explanation.record import (
    CellRow,
    ClassRow,
    ConceptRow,
    FindingRow,
    ImageView,
    ModalityRow,
    Panel,
    PatientExplanation,
    PredictionSet,
    TextView,
)
from robustmdiff.explanation.shapley import modality_shapley
from robustmdiff.knowledge.link import knows_an_ontology
from robustmdiff.refusal import Refusal
from robustmdiff.training.notes import Note

TOP = 8  # findings and concepts that are listed


def explain_patient(
    model: RobustMDiff,
    patient: Patient,
    collator: Collator,
    *,
    conformal: ConformalSets | None = None,
    abstention: Abstention | None = None,
    draws: int | None = None,
    seed: int = 0,
    target: str | None = None,
    steps: int = 64,
    checkpoint: str = "",
    notes: Sequence[Note] = (),
    K: Tensor | None = None,
) -> PatientExplanation:
    """Diagnose one patient and gather why.

    target  the class to explain; the most probable one unless given.
    draws   of the diagnosis; the model's own number, for which sets are calibrated, unless given. 0: none,
            and a head answers.
    steps   of the integrated gradients.
    notes   of the model's training, for the page (`training.notes.read_notes`).
    K       the embedded concepts, where they are at hand (see `attribution.read`).

    The model is left in evaluation mode. A patient with nothing at all gets the prevalences, and the
    tests worth ordering first. Raises DataError for a patient that is not what the task
    declares, ValueError for a target that is not one of its classes, TypeError for another model.
    """
    if not isinstance(model, RobustMDiff):
        kind = type(model).__name__
        raise TypeError(
            f"explain_patient: model is a {kind}, expected RobustMDiff (others have Shapley values)"
        )
    task = model.task
    if target is not None and target not in task.classes:
        raise Refusal(f"explain_patient: target is {target!r}, expected one of {', '.join(task.classes)}")
    draws = model.config.draws if draws is None else draws
    model.eval()
    reading = read(model, patient, collator, K)
    with torch.no_grad():
        encoded = model.encode(reading.batch, reading.K)
        present = encoded.m.cpu()
        observed = bool(present.any())
        diagnosis = model.diagnose(encoded, draws=draws, seed=seed)
        probability = diagnosis.probability.cpu()
        evidence = _evidence(model, encoded)
        in_set = None if conformal is None else conformal.sets(probability, present)[0].tolist()
        latent = model.observe(encoded).cpu()
        unlike = None if abstention is None else bool(abstention.flag(latent, present)[0])
        ways = max(draws, DRAWS)
        next_tests = rank_next_tests(model, encoded, draws=ways, seed=seed) if model.imagines else None
        consulted = _concepts(model, encoded) if observed else ()
    c = int(probability[0].argmax()) if target is None else task.classes.index(target)
    needed = 0 if diagnosis.answer in model.heads else draws
    shapley = modality_shapley(model, encoded, draws=needed, seed=seed)
    attribution = attribute(model, reading, c, steps=steps)
    return PatientExplanation(
        id=patient.id,
        source=patient.source,
        site=patient.site,
        age=patient.age,
        target=task.classes[c],
        multilabel=task.multilabel,
        classes=_classes(
            model, reading.batch, probability[0], diagnosis.interval() if observed else None, in_set, evidence
        ),
        modalities=_modalities(model, shapley.contribution[:, c], attribution),
        findings=_findings(model, diagnosis.findings, evidence) if observed else (),
        concepts=consulted,
        images=image_views(model, reading.batch, attribution),
        texts=text_views(model, patient, attribution),
        panels=_panels(model, patient, attribution),
        next_tests=next_tests,
        prediction_set=_prediction_set(conformal, present[0], c),
        unlike_training=unlike,
        direct=attribution.probability,
        baseline=attribution.baseline,
        completeness_error=attribution.completeness_error,
        nothing=float(shapley.nothing[c]),
        everything=float(shapley.everything[c]),
        answer=diagnosis.answer,
        draws=draws,
        seed=seed,
        checkpoint=checkpoint,
        notes=tuple(notes),
    )


def _prediction_set(conformal: ConformalSets | None, present: Tensor, c: int) -> PredictionSet | None:
    return None if conformal is None else PredictionSet(1 - conformal.alpha, *conformal.group(present, c))


def _classes(
    model: RobustMDiff,
    batch: Batch,
    probability: Tensor,
    interval: tuple[Tensor, Tensor] | None,
    in_set: list[bool] | None,
    evidence: Mapping[str, dict[str, float]],
) -> tuple[ClassRow, ...]:
    """probability [C], both ends of the interval [1, C]."""
    task = model.task
    own = evidence if model.signs.are_classes else {}
    unknown = [None] * len(task.classes)
    low, high = (unknown, unknown) if interval is None else (end[0].tolist() for end in interval)
    holds, known = (batch.label[0] > 0.5).tolist(), batch.label_known[0].tolist()
    rows = [
        ClassRow(
            name=name,
            probability=p,
            low=low[c],
            high=high[c],
            prevalence=task.prevalence[c],
            rare=name in task.rare,
            in_set=None if in_set is None else in_set[c],
            recorded=holds[c] if known[c] else None,
            evidence=own.get(name, {}),
        )
        for c, (name, p) in enumerate(zip(task.classes, probability.tolist(), strict=True))
    ]
    return tuple(sorted(rows, key=lambda row: -row.probability))


def _modalities(
    model: RobustMDiff, contribution: Tensor, attribution: Attribution
) -> tuple[ModalityRow, ...]:
    """contribution [M]."""
    whole = sum(attribution.gradient.values()) or 1.0
    rows = []
    for modality, phi in zip(model.task.modalities, contribution.tolist(), strict=True):
        gradient = attribution.gradient.get(modality.name)
        if gradient is None:
            rows.append(ModalityRow(modality.name, modality.kind, present=False))
        else:
            attributed = attribution.total.get(modality.name)
            rows.append(ModalityRow(modality.name, modality.kind, True, phi, gradient / whole, attributed))
    return tuple(rows)


def _evidence(model: RobustMDiff, encoded: Encoded) -> dict[str, dict[str, float]]:
    """Nats by sign and modality present."""
    each = model.evidence_of_each(encoded)[0].T.tolist()  # [F][M]
    present = encoded.m[0].tolist()
    return {
        sign: {
            name: x for name, x, seen in zip(model.task.modality_names, said, present, strict=True) if seen
        }
        for sign, said in zip(model.signs.names, each, strict=True)
    }


def _findings(
    model: RobustMDiff, probability: Tensor | None, evidence: Mapping[str, dict[str, float]]
) -> tuple[FindingRow, ...]:
    if probability is None:
        return ()
    rows = [
        FindingRow(name, p, evidence[name])
        for name, p in zip(model.task.findings, probability[0].tolist(), strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: -row.probability)[:TOP])


def _concepts(model: RobustMDiff, encoded: Encoded) -> tuple[ConceptRow, ...]:
    """What the attention in the integration, A_med, consulted most; per head only the heaviest TOP are looked
    up, so a weight may be a little too small. Nothing without an ontology: the task's names are no
    knowledge."""
    if not knows_an_ontology(model.concept_table):
        return ()
    K = encoded.K
    assert K is not None
    asking = encoded.m[0].nonzero()[:, 0].tolist()
    H = model.integration.fuse(encoded)[0, asking]
    index, weight = model.integration.knowledge.top(H, K, min(TOP, len(K)))  # [modalities, heads, n]
    found = H.new_zeros(len(asking), len(K)).scatter_add(1, index.flatten(1), weight.flatten(1))
    found = (found / weight.shape[1]).cpu()
    table = model.concept_table
    rows = []
    for i in found.mean(0).topk(min(TOP, len(K))).indices.tolist():
        modality = model.task.modality_names[asking[int(found[:, i].argmax())]]
        rows.append(ConceptRow(table.name[i], table.kind[i], modality, float(found[:, i].mean())))
    return tuple(rows)


def image_views(model: RobustMDiff, batch: Batch, attribution: Attribution) -> tuple[ImageView, ...]:
    views = []
    for modality in model.task.of_kind("image"):
        packed: Any = batch.inputs[modality.name]
        if len(packed.rows):
            heat = attribution.parts.get(modality.name)
            pixels = packed.pixels[0].cpu()
            views.append(ImageView(modality.name, modality.channels, pixels, modality.low_high, heat))
    return tuple(views)


def text_views(model: RobustMDiff, patient: Patient, attribution: Attribution) -> tuple[TextView, ...]:
    views = []
    for modality in model.task.of_kind("text"):
        text = patient.modalities.get(modality.name)
        if isinstance(text, str):
            views.append(TextView(modality.name, text, attribution.parts.get(modality.name, ())))
    return tuple(views)


def _panels(model: RobustMDiff, patient: Patient, attribution: Attribution) -> dict[str, Panel]:
    """Out of range first, then by how much a cell mattered."""
    panels = {}
    for modality in model.task.of_kind("values"):
        values = patient.modalities.get(modality.name)
        if not isinstance(values, Mapping):
            continue
        cells = attribution.parts.get(modality.name, {})
        rows = [
            CellRow(field, values[field.name], _status(field, values[field.name]), cells.get(field.name))
            for field in modality.fields
            if field.name in values
        ]
        rows.sort(key=lambda row: (row.status not in ("high", "low"), -abs(row.attribution or 0)))
        missing = tuple(field.name for field in modality.fields if field.name not in values)
        panels[modality.name] = Panel(tuple(rows), missing)
    return panels


def _status(field: Field, value: float | str) -> str:
    if field.reference is None or isinstance(value, str):
        return ""
    low, high = field.reference
    return "low" if value < low else "high" if value > high else "within"
