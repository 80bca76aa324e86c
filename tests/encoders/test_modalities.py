from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from robustmdiff.data.batch import Panels
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Field, Modality, Task
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import ImageEncoder, ModalityEncoders, PanelEncoder


def test_only_what_is_present_becomes_tokens(study, model):
    batch = study.collator(study.patients)
    encoded = model.encoders(batch)
    assert torch.equal(encoded.presence(), batch.presence)
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
    assert not encoded.presence()[:, study.cohort.task.modality_names.index("ct")].any()


def test_patients_without_anything(study, model):
    encoded = model.encoders(study.collator([Patient("a", {}), Patient("b", {"text": None})]))
    assert encoded.tokens.shape == (0, 8)
    assert not encoded.presence().any()


def test_an_empty_text_is_present_and_an_absent_one_is_not(study, model):
    batch = study.collator([Patient("empty", {"text": ""}), Patient("absent", {"text": None})])
    text = study.cohort.task.modality_names.index("text")
    assert model.encoders(batch).presence()[:, text].tolist() == [True, False]


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


class Brightness(nn.Module):
    """A user's own encoder: one token, from the mean of the image."""

    def __init__(self, modality: Modality, config: ModelConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(1, config.d_h)

    def forward(self, images):
        n = len(images.rows)
        return self.linear(images.pixels.mean((1, 2, 3))[:, None]), torch.ones(n, dtype=torch.long)


def test_a_user_names_an_encoder_of_their_own(monkeypatch):
    import sys
    import types

    module = types.ModuleType("their_package")
    module.Brightness = Brightness  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_package", module)
    photo = Modality("photo", "image", shape=(1, 5, 7), encoder="their_package:Brightness")
    task = Task((photo,), ("ill", "well"), (0.2, 0.8))
    encoders = ModalityEncoders(task, ModelConfig(d_h=4, heads=2))
    assert isinstance(encoders.encoders["photo"], Brightness)


def test_an_image_that_patches_do_not_tile_is_refused():
    odd = Modality("xray", "image", shape=(1, 30, 32))
    with pytest.raises(ValueError, match=r"'xray': image is 30 x 32, expected .* patch = 16"):
        ImageEncoder(odd, ModelConfig())


def test_hiding_takes_a_mask_of_the_right_shape(study, model):
    encoded: Encoded = model.encoders(study.collator(study.patients[:3]))
    with pytest.raises(ValueError, match=r"mask is torch.float32 \[3, 6\], expected bool \[3, 6\]"):
        encoded.keep(torch.ones(3, 6))
    hidden = encoded.keep(torch.zeros(3, 6, dtype=torch.bool))
    assert not hidden.presence().any()
