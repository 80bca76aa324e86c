"""Panels of values: laboratory results, vital signs, codes and genotypes, each measured or not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustmdiff.data.kinds.kind import Spans
from robustmdiff.data.kinds.values import Panels
from robustmdiff.data.modality import Modality
from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.encoders.encoder import Embedded, Encoder, KindEncoder


class PanelEncoder(KindEncoder):
    """An MLP over normalised values and their presence: one token per panel.

    Numeric values are scaled by their reference range (its ends at -1 and 1), or by mean and
    deviation of the training patients (`fit`) where there is none, and squashed so that one
    extreme value cannot drown the rest. Categories are one-hot. A cell that was not measured
    gives 0 in its values and 0 in its presence.
    """

    numeric: Tensor
    referenced: Tensor
    centre: Tensor
    scale: Tensor
    field: Tensor

    def __init__(self, modality: Modality, config: EncoderConfig) -> None:
        super().__init__()
        fields = modality.fields
        numeric = [i for i, field in enumerate(fields) if not field.categories]
        references = [fields[i].reference for i in numeric]
        self.register_buffer("numeric", torch.tensor(numeric, dtype=torch.long), persistent=False)
        self.register_buffer(
            "referenced", torch.tensor([r is not None for r in references], dtype=torch.bool)
        )
        self.register_buffer("centre", torch.tensor([(r[0] + r[1]) / 2 if r else 0.0 for r in references]))
        self.register_buffer("scale", torch.tensor([(r[1] - r[0]) / 2 if r else 1.0 for r in references]))
        self.categorical = [(i, len(field.categories)) for i, field in enumerate(fields) if field.categories]
        of_categories = [i for i, size in self.categorical for _ in range(size)]
        columns = [*numeric, *range(len(fields)), *of_categories]  # which field each input of the MLP is of
        self.register_buffer("field", torch.tensor(columns), persistent=False)
        self.fields = len(fields)
        self.mlp = nn.Sequential(
            nn.Linear(len(columns), 2 * config.d_h),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * config.d_h, config.d_h),
            nn.LayerNorm(config.d_h),
        )

    @staticmethod
    def blank(modality: Modality) -> Panels:
        """A panel in which all is measured and one in which nothing is, to try an encoder on."""
        present = torch.tensor([[True], [False]]).expand(2, len(modality.fields))
        return Panels(torch.arange(2), torch.zeros(present.shape), present)

    @staticmethod
    def silent(encoder: Encoder, panels: Panels, spans: Spans) -> Tensor:
        nothing = {"value": torch.zeros_like(panels.value), "present": torch.zeros_like(panels.present)}
        return encoder.embed(panels._replace(**nothing)).x

    def enter(self, inputs: Mapping[str, Tensor]) -> Embedded:
        return self.embed(Panels(None, inputs["value"], inputs["present"]))

    def embed(self, panels: Panels) -> Embedded:
        """x [n, width]: numeric values, the presence of every field, one-hot categories."""
        value = panels.value.masked_fill(~panels.present, 0)
        parts = [panels.present.to(value.dtype)]
        if len(self.numeric):
            x, measured = value[:, self.numeric], panels.present[:, self.numeric]
            parts.insert(0, torch.asinh((x - self.centre) / self.scale) * measured)
        for i, size in self.categorical:
            category = value[:, i, None] == torch.arange(size, device=value.device)
            parts.append((category & panels.present[:, i, None]).to(value.dtype))
        return Embedded(torch.cat(parts, dim=-1))

    def encode(self, embedded: Embedded) -> tuple[Tensor, Tensor]:
        tokens, lengths = self.padded(embedded)
        return tokens[:, 0], lengths

    def padded(self, embedded: Embedded) -> tuple[Tensor, Tensor]:
        tokens = self.mlp(embedded.x)[:, None]  # [n, 1, d]
        return tokens, torch.ones(tokens.shape[0], dtype=torch.long, device=tokens.device)

    def parts(self, attribution: Tensor) -> Tensor:
        return attribution.new_zeros(self.fields).index_add(0, self.field, attribution)

    @torch.no_grad()
    def fit(self, panels: Panels) -> None:
        """Centre and scale, of fields without a reference range, from the training patients."""
        x, measured = panels.value[:, self.numeric], panels.present[:, self.numeric]
        count = measured.sum(0).clamp(min=1)
        mean = x.masked_fill(~measured, 0).sum(0) / count
        deviation = ((x - mean) ** 2).masked_fill(~measured, 0).sum(0).div(count).sqrt()
        unknown = ~self.referenced & (measured.sum(0) > 0)
        self.centre.copy_(torch.where(unknown, mean, self.centre))
        self.scale.copy_(torch.where(unknown & (deviation > 0), deviation, self.scale))
