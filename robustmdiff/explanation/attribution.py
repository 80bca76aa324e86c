"""Why a class got its probability: gradients per modality, and integrated gradients down to
pixels, words and cells.

All of it explains the direct path p_c(x(m)), `model.probability(model.observe(encoded))`: what is
observed, through the head, without a draw. A diagnosis averages over draws and may differ a little.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robustmdiff.data.batch import Batch, Images, Input, Panels, Texts
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.tokenizer import tokenize
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import PanelEncoder, TextEncoder
from robustmdiff.encoders.tensors import tensors

BLUR = 1 / 8  # of the shorter side: what is left of an image after it shows anatomy but no lesion
AT_ONCE = 16  # points of the path per forward pass
IN_WORDS = ("Mn", "Mc", "Me", "Cf")  # marks, and what cannot be seen
WITHOUT_BLANKS = re.compile(  # Thai and Lao, Burmese, Khmer, Chinese and Japanese
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u3190-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class Word:
    """text[start:end] of a report, and what it added to p_c."""

    text: str
    start: int
    end: int
    attribution: float


@dataclass(frozen=True)
class Attribution:
    """What made up p_c, signed; positive speaks for class c. Modalities by name, present ones only.

    target       c.
    probability  p_c of the direct path; baseline: p_c once every modality present says nothing.
    gradient     |dp_c/dH_i|: norm of the gradient with respect to all that modality i's encoder
                 gave, its summary and its tokens. How much p_c would move, not which way.
    total        per modality; together they are probability - baseline - completeness_error.
    pixels       float32 [C, H, W] per image, adding up to its total.
    words        per text. Words beyond the model's longest text are not in it.
    cells        per panel, by field, the measured ones.
    """

    target: int
    probability: float
    baseline: float
    completeness_error: float
    gradient: dict[str, float]
    total: dict[str, float]
    pixels: dict[str, Tensor]
    words: dict[str, tuple[Word, ...]]
    cells: dict[str, dict[str, float]]


def attribute(
    model: RobustMDiff, patient: Patient, collator: Collator, target: int, *, steps: int = 64
) -> Attribution:
    """Integrated gradients (Sundararajan et al. 2017) of p_target along one straight path for all
    modalities at once, from a patient whose modalities are there but say nothing: an image blurred
    by 1/8 of its side, a text whose words have embedding 0, a panel in which nothing was measured.

    steps is the number of points on the path; more of them make `completeness_error` smaller. A
    text or panel whose encoder is the user's own class is held as it is: it has a gradient, but no
    total, words or cells. Parameters, their gradients and the model's mode are left as they were.
    """
    classes = len(model.task.classes)
    if not 0 <= target < classes:
        raise ValueError(f"attribute: target is {target}, expected a class from 0 to {classes - 1}")
    if steps < 1:
        raise ValueError(f"attribute: steps is {steps}, expected at least 1")
    device = next(model.parameters()).device
    batch = tensors(collator([patient]), device)
    training = model.training
    model.eval()
    try:
        path = _path(model, patient, batch, collator)
        names = list(path)
        with torch.no_grad():  # what concepts are called is no part of the patient
            K = model.embed_concepts()

        def probability(*x: Tensor) -> Tensor:  # each [n, ...] -> [n, C]
            encoded = _encode(model, batch, dict(zip(names, x, strict=True)), K)
            return model.probability(model.observe(encoded))

        gradient = _gradient(model, batch, K, target)
        with torch.no_grad():
            p = probability(*(x for _, x in path.values()))[0, target].item()
            nothing = probability(*(x_0 for x_0, _ in path.values()))[0, target].item()
        found: dict[str, Tensor] = {}
        if path:
            from captum.attr import IntegratedGradients

            x_0, x = zip(*path.values(), strict=True)
            parts = IntegratedGradients(probability).attribute(
                x, baselines=x_0, target=target, n_steps=steps, internal_batch_size=AT_ONCE
            )
            found = {name: part[0].detach().float().cpu() for name, part in zip(names, parts, strict=True)}
    finally:
        model.train(training)

    total = {name: float(part.double().sum()) for name, part in found.items()}
    by_kind = {
        kind: [n for n in names if model.task.modality(n).kind == kind]
        for kind in ("image", "text", "values")
    }
    return Attribution(
        target=target,
        probability=p,
        baseline=nothing,
        completeness_error=p - nothing - sum(total.values()),
        gradient=gradient,
        total=total,
        pixels={n: found[n] for n in by_kind["image"]},
        words={n: _words(patient, n, collator, found[n].sum(-1)) for n in by_kind["text"]},
        cells={n: _cells(model, patient, n, found[n]) for n in by_kind["values"]},
    )


def _gradient(model: RobustMDiff, batch: Batch, K: Tensor, target: int) -> dict[str, float]:
    given: dict[str, Tensor] = {}  # tokens [n, d] of each encoder that ran, cut off from what made them

    def cut(name: str, out: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        given[name] = out[0].detach().requires_grad_()
        return given[name], out[1]

    encoders = model.encoders.encoders
    handles = [
        e.register_forward_hook(lambda _, args, out, name=n: cut(name, out)) for n, e in encoders.items()
    ]
    try:
        with torch.enable_grad():
            p = model.probability(model.observe(model.encode(batch, K)))[0, target]
    finally:
        for handle in handles:
            handle.remove()
    if not given:
        return {}
    parts = torch.autograd.grad(p, list(given.values()), materialize_grads=True)
    return {name: part.norm().item() for name, part in zip(given, parts, strict=True)}


# Where the path enters the encoders: at the pixels, behind the word embedding, before a panel's MLP


def _path(
    model: RobustMDiff, patient: Patient, batch: Batch, collator: Collator
) -> dict[str, tuple[Tensor, Tensor]]:
    """Where each modality's path begins and where it ends, [1, ...] both."""
    path = {}
    for name, x in _observed(model, batch).items():
        kind = model.task.modality(name).kind
        if kind == "image":
            path[name] = _blurred(x), x
        elif kind == "text":  # [CLS] and [SEP] stay
            special = torch.tensor([start == end for start, end in _offsets(patient, name, collator)])
            path[name] = x * special.to(x.device)[:, None], x
        else:
            path[name] = torch.zeros_like(x), x
    return path


def _gate(encoder: nn.Module) -> nn.Module | None:
    """The module whose output (a text's) or input (a panel's) is replaced."""
    if isinstance(encoder, TextEncoder):
        return encoder.bert.get_input_embeddings()
    return encoder.mlp if isinstance(encoder, PanelEncoder) else None


def _observed(model: RobustMDiff, batch: Batch) -> dict[str, Tensor]:
    """What one patient's path ends in: pixels [1, C, H, W], word embeddings [1, L, e], inputs of
    the MLP [1, width]."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, packed in batch.inputs.items():
        gate = _gate(model.encoders.encoders[name])
        if len(packed.rows) == 0:
            continue
        if isinstance(packed, Images):
            seen[name] = packed.pixels
        elif isinstance(packed, Texts) and gate is not None:
            handles.append(
                gate.register_forward_hook(lambda _, args, out, name=name: seen.update({name: out}))
            )
        elif gate is not None:
            handles.append(
                gate.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
            )
    try:
        with torch.no_grad():
            model.encoders(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: seen[name].detach() for name in batch.inputs if name in seen}


@contextmanager
def _replaced(model: RobustMDiff, x: dict[str, Tensor]) -> Iterator[None]:
    handles = []
    for name, value in x.items():
        gate = _gate(model.encoders.encoders[name])
        if model.task.modality(name).kind == "text":
            assert gate is not None
            handles.append(gate.register_forward_hook(lambda _, args, out, value=value: value))
        elif model.task.modality(name).kind == "values":
            assert gate is not None
            handles.append(gate.register_forward_pre_hook(lambda _, args, value=value: (value,)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _encode(model: RobustMDiff, batch: Batch, x: dict[str, Tensor], K: Tensor) -> Encoded:
    """Encoded of n copies of the one patient in `batch`, whose inputs are x, each [n, ...]."""
    n = len(next(iter(x.values()))) if x else 1
    rows = torch.arange(n, device=batch.presence.device)
    inputs: dict[str, Input] = {}
    for name, packed in batch.inputs.items():
        if len(packed.rows) == 0:
            inputs[name] = packed
        elif isinstance(packed, Images):
            inputs[name] = Images(rows, x[name])
        elif isinstance(packed, Texts):
            inputs[name] = Texts(rows, packed.input_ids.repeat(n), packed.lengths.repeat(n))
        else:
            inputs[name] = Panels(rows, packed.value.repeat(n, 1), packed.present.repeat(n, 1))
    several = {
        field: getattr(batch, field).repeat(n, 1)
        for field in ("presence", "label", "label_known", "findings", "findings_known")
    }
    with _replaced(model, x):
        return model.encode(replace(batch, ids=batch.ids * n, inputs=inputs, **several), K)


def _blurred(pixels: Tensor) -> Tensor:
    """[n, C, H, W], by a Gaussian of BLUR times the shorter side; edges repeat."""
    C, *sides = pixels.shape[1:]
    sigma = BLUR * min(sides)
    reach = int(3 * sigma) + 1
    offset = torch.arange(-reach, reach + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.exp(-((offset / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(C, 1, 1, -1)
    x = nn.functional.pad(pixels, (reach,) * 4, mode="replicate")
    return nn.functional.conv2d(nn.functional.conv2d(x, kernel, groups=C), kernel.mT, groups=C)


# From what the path was made of to words and cells


def _offsets(patient: Patient, name: str, collator: Collator) -> list[tuple[int, int]]:
    text = patient.modalities[name]
    assert isinstance(text, str)
    assert collator.tokenizer is not None
    return tokenize(collator.tokenizer, text, collator.max_tokens)[1]


def _words(patient: Patient, name: str, collator: Collator, pieces: Tensor) -> tuple[Word, ...]:
    """Pieces [L] merged into words: neighbours without a gap whose characters belong together, and
    pieces of one and the same character."""
    text = patient.modalities[name]
    assert isinstance(text, str)
    words: list[Word] = []
    for (start, end), value in zip(_offsets(patient, name, collator), pieces.tolist(), strict=True):
        if start == end:  # a special token; the path does not move it
            continue
        while unicodedata.category(text[end : end + 1] or "?") in IN_WORDS:
            end += 1
        last = words[-1] if words else None
        if last and (start < last.end or (start == last.end and _joined(text[start - 1], text[start]))):
            words[-1] = Word(text[last.start : end], last.start, end, last.attribution + value)
        else:
            words.append(Word(text[start:end], start, end, value))
    return tuple(words)


def _joined(left: str, right: str) -> bool:
    """Whether a word goes on between two characters: with a mark (an accent, a vowel sign), or between
    letters and digits of scripts that set blanks between words."""
    if unicodedata.category(right) in IN_WORDS:
        return True
    before = left.isalnum() or unicodedata.category(left) in IN_WORDS
    return before and right.isalnum() and not WITHOUT_BLANKS.search(left + right)


def _cells(model: RobustMDiff, patient: Patient, name: str, columns: Tensor) -> dict[str, float]:
    """Columns [width] of the MLP's input (values, presence, one-hot categories) added up by field."""
    fields = model.task.modality(name).fields
    numeric = [i for i, field in enumerate(fields) if not field.categories]
    categories = [i for i, field in enumerate(fields) for _ in field.categories]
    owner = [*numeric, *range(len(fields)), *categories]
    sums = torch.zeros(len(fields)).index_add(0, torch.tensor(owner), columns).tolist()
    measured = patient.modalities[name]
    assert isinstance(measured, Mapping)
    return {field.name: value for field, value in zip(fields, sums, strict=True) if field.name in measured}
