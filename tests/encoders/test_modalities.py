from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from robustmdiff.data.kinds.image import Images
from robustmdiff.data.kinds.values import Panels
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.encoder import Embedded
from robustmdiff.encoders.image import ImageEncoder, denormalise, normalise
from robustmdiff.encoders.text import padded
from robustmdiff.encoders.values import PanelEncoder


def test_only_what_is_present_becomes_tokens(study, model):
    batch = study.collator(study.patients)
    encoded = model.encoders(batch)
    assert torch.equal(encoded.m, batch.presence)
    assert not batch.presence.all()
    assert batch.presence.any()
    assert int(encoded.segments[..., 1].sum()) == len(encoded.tokens)
    b, m = batch.presence.nonzero()[-1].tolist()
    start = int(encoded.segments[b, m, 0])
    assert torch.equal(encoded.H[b, m], encoded.tokens[start])  # H_i is the first token
    assert (encoded.H[~batch.presence] == 0).all()


def test_segments_lie_side_by_side_without_overlap(study, model):
    segments = model.encoders(study.collator(study.patients)).segments
    covered = [i for s, n in segments.reshape(-1, 2).tolist() for i in range(s, s + n)]
    assert sorted(covered) == list(range(len(covered)))


def test_a_patient_is_encoded_alone_as_among_others(study, model):
    together = model.encoders(study.collator(study.patients))
    for b, patient in enumerate(study.patients[:4]):
        alone = model.encoders(study.collator([patient]))
        torch.testing.assert_close(alone.H[0], together.H[b], rtol=1e-4, atol=1e-5)


def test_a_modality_that_nobody_has(study, model):
    without = [
        dataclasses.replace(p, modalities={k: v for k, v in p.modalities.items() if k != "ct"})
        for p in study.patients
    ]
    encoded = model.encoders(study.collator(without))
    assert not encoded.m[:, study.cohort.task.modality_names.index("ct")].any()


def test_patients_without_anything(study, model):
    encoded = model.encoders(study.collator([Patient("a", {}), Patient("b", {"text": None})]))
    assert encoded.tokens.shape == (0, 8)
    assert not encoded.m.any()


def test_an_empty_text_is_present_and_an_absent_one_is_not(study, model):
    batch = study.collator([Patient("empty", {"text": ""}), Patient("absent", {"text": None})])
    text = study.cohort.task.modality_names.index("text")
    assert model.encoders(batch).m[:, text].tolist() == [True, False]


def panel_encoder() -> PanelEncoder:
    fields = (
        Field("crp", "mg/L", (2.0, 6.0)),
        Field("score"),
        Field("sex", categories=("female", "male", "other")),
    )
    torch.manual_seed(0)
    return PanelEncoder(Modality("labs", "values", fields=fields), ModelConfig(d_h=8, heads=2)).eval()


def test_cells_that_were_not_measured_are_never_read():
    encoder = panel_encoder()
    value = torch.tensor([[3.0, 7.0, 2.0], [5.0, 0.0, 0.0]])
    present = torch.tensor([[True, True, True], [True, False, False]])
    poisoned = value.masked_fill(~present, float("nan"))
    rows = torch.arange(2)
    clean = encoder(Panels(rows, value, present))[0]
    dirty = encoder(Panels(rows, poisoned, present))[0]
    assert torch.equal(clean, dirty)
    dirty.sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_scales_come_from_references_or_from_training_patients():
    encoder = panel_encoder()
    value = torch.tensor([[1.0, 10.0, 0.0], [1.0, 30.0, 0.0], [1.0, float("nan"), 0.0]])
    present = torch.tensor([[True, True, True], [True, True, True], [True, False, True]])
    encoder.fit(Panels(torch.arange(3), value, present))
    assert encoder.centre.tolist() == [4.0, 20.0]
    assert encoder.scale.tolist() == [2.0, 10.0]


def test_an_image_that_patches_do_not_tile_is_refused():
    odd = Modality("xray", "image", shape=(1, 30, 32))
    with pytest.raises(ValueError, match=r"'xray': image is 30 x 32, expected .* patch = 16"):
        ImageEncoder(odd, ModelConfig())


def test_hiding_takes_a_mask_of_the_right_shape(study, model):
    encoded: Encoded = model.encoders(study.collator(study.patients[:3]))
    with pytest.raises(ValueError, match=r"mask is torch.float32 \[3, 6\], expected bool \[3, 6\]"):
        encoded.keep(torch.ones(3, 6))
    hidden = encoded.keep(torch.zeros(3, 6, dtype=torch.bool))
    assert not hidden.m.any()


def test_an_encoder_is_embed_and_encode(study, model):
    batch = study.collator(study.patients)
    for name, encoder in model.encoders.encoders.items():
        embedded = encoder.embed(batch.inputs[name])
        assert embedded.x.is_floating_point()
        for parts, whole in zip(encoder.encode(embedded), encoder(batch.inputs[name]), strict=True):
            assert torch.equal(parts, whole)


def test_parts_add_up_what_is_observed(study, model):
    """A picture's pixels, a text's tokens, a panel's fields; nothing is lost on the way."""
    batch, task = study.collator(study.patients), study.cohort.task
    for name, encoder in model.encoders.encoders.items():
        x = encoder.embed(batch.inputs[name]).x[0].detach().double()
        parts, modality = encoder.parts(x), task.modality(name)
        sizes = {"image": modality.shape, "text": x.shape[:1], "values": (len(modality.fields),)}
        assert parts.shape == sizes[modality.kind]
        torch.testing.assert_close(parts.sum(), x.sum())


def test_what_a_window_normalises_its_inverse_gives_back():
    hounsfield = torch.tensor([-1000.0, -300.0, 400.0, 1500.0])
    x = normalise(hounsfield, (-1000.0, 400.0))
    torch.testing.assert_close(x, torch.tensor([-1.0, 0.0, 1.0, 18 / 7]))
    torch.testing.assert_close(denormalise(x, (-1000.0, 400.0)), hounsfield)


def test_what_is_outside_the_window_is_clipped():
    torch.manual_seed(0)
    xray = Modality("xray", "image", shape=(1, 16, 16), window=(-1.0, 3.0))
    encoder = ImageEncoder(xray, ModelConfig(d_h=8, heads=2)).eval()
    far = torch.full((1, 1, 16, 16), 50.0)
    bright, brighter = (encoder(Images(torch.arange(1), x))[0] for x in (far.clamp(max=3), far))
    assert torch.equal(bright, brighter)
    assert not torch.equal(bright, encoder(Images(torch.arange(1), far * 0))[0])


def test_texts_are_filled_up_to_the_longest():
    flat, lengths = torch.arange(1, 7), torch.tensor([2, 1, 3])
    assert padded(flat, lengths, 9).tolist() == [[1, 2, 9], [3, 9, 9], [4, 5, 6]]


@pytest.mark.parametrize("name", ["xray", "text", "structured"])
def test_what_encodes_can_be_exported(study, model, name):
    """For fixed shapes, with nothing but tensors between what is embedded and tokens."""
    encoder = model.encoders.encoders[name]
    embedded = encoder.embed(study.collator(study.patients).inputs[name])
    with torch.no_grad():
        graph = torch.export.export(Encodes(encoder), tuple(x.detach() for x in embedded if x is not None))
        for found, expected in zip(
            graph.module()(*(x for x in embedded if x is not None)), encoder.encode(embedded), strict=True
        ):
            torch.testing.assert_close(found, expected)


class Encodes(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x, lengths=None):
        return self.encoder.encode(Embedded(x, lengths))
