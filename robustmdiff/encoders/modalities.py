"""One encoder per modality: packed observations in, tokens and a summary H_i out.

An encoder is an nn.Module built from (modality, config) whose forward takes the packed
observations of the n patients who have the modality and returns `(tokens, lengths)`: tokens
[sum of lengths, d_h] end to end, lengths [n]. The first token of each patient is H_i.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from robustmdiff.data.batch import Batch, Images, Panels, Texts
from robustmdiff.data.task import Modality, Task
from robustmdiff.encoders.backbone import load_backbone
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.tensors import tensors
from robustmdiff.nn.dropout import of_rows
from robustmdiff.nn.transformers import register_with_transformers
from robustmdiff.refusal import Refusal


class ImageEncoder(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) on our attention, small and from scratch unless
    the modality names a pretrained `AutoModel`; [CLS] is the summary."""

    def __init__(self, modality: Modality, config: ModelConfig) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTModel

        register_with_transformers()
        assert modality.shape is not None
        channels, height, width = modality.shape
        self.low, self.high = modality.low_high
        if modality.encoder is not None:
            self.vit = load_backbone(modality)
        else:
            if height % config.patch or width % config.patch:
                raise Refusal(
                    f"modality {modality.name!r}: image is {height} x {width}, expected sides that are "
                    f"multiples of patch = {config.patch}"
                )
            self.vit = ViTModel(
                ViTConfig(
                    hidden_size=config.d_h,
                    num_hidden_layers=config.layers,
                    num_attention_heads=config.heads,
                    intermediate_size=2 * config.d_h,
                    image_size=(height, width),
                    patch_size=config.patch,
                    num_channels=channels,
                    hidden_dropout_prob=config.dropout,
                    attn_implementation="robustmdiff",  # type: ignore[call-arg]
                ),
                add_pooling_layer=False,
            )
        self.project = _to_width(self.vit.config.hidden_size, config.d_h)

    def forward(self, images: Images) -> tuple[Tensor, Tensor]:
        pixels = 2 * (images.pixels - self.low) / (self.high - self.low) - 1
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, self.vit.config.num_channels, -1, -1)
        tokens = self.project(
            self.vit(pixel_values=pixels.clamp(-1, 1)).last_hidden_state
        )  # [n, 1 + patches, d]
        n, length, d = tokens.shape
        return tokens.reshape(n * length, d), torch.full((n,), length, device=tokens.device)


class TextEncoder(nn.Module):
    """A BERT (Devlin et al. 2019) on our attention, small and from scratch unless the modality
    names a pretrained `AutoModel`; [CLS] is the summary."""

    def __init__(self, modality: Modality, config: ModelConfig) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        register_with_transformers()
        if modality.encoder is not None:
            self.bert = load_backbone(modality)
        else:
            if config.vocabulary < 1:
                raise Refusal(
                    f"modality {modality.name!r}: vocabulary is {config.vocabulary}, expected the "
                    "number of entries of the tokenizer"
                )
            self.bert = BertModel(
                BertConfig(
                    vocab_size=config.vocabulary,
                    hidden_size=config.d_h,
                    num_hidden_layers=config.layers,
                    num_attention_heads=config.heads,
                    intermediate_size=2 * config.d_h,
                    max_position_embeddings=config.max_tokens,
                    hidden_dropout_prob=config.dropout,
                    attention_probs_dropout_prob=0.0,
                    attn_implementation="robustmdiff",  # type: ignore[call-arg]
                ),
                add_pooling_layer=False,
            )
        self.project = _to_width(self.bert.config.hidden_size, config.d_h)

    def forward(self, texts: Texts) -> tuple[Tensor, Tensor]:
        padding = self.bert.config.pad_token_id or 0
        ids = pad_sequence(texts.input_ids.split(texts.lengths.tolist()), True, padding)  # [n, longest]
        written = torch.arange(ids.shape[1], device=ids.device) < texts.lengths[:, None]
        states = self.bert(input_ids=ids, attention_mask=written.long()).last_hidden_state
        return self.project(states[written]), texts.lengths


class PanelEncoder(nn.Module):
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

    def __init__(self, modality: Modality, config: ModelConfig) -> None:
        super().__init__()
        numeric = [i for i, field in enumerate(modality.fields) if not field.categories]
        references = [modality.fields[i].reference for i in numeric]
        self.register_buffer("numeric", torch.tensor(numeric, dtype=torch.long), persistent=False)
        self.register_buffer(
            "referenced", torch.tensor([r is not None for r in references], dtype=torch.bool)
        )
        self.register_buffer("centre", torch.tensor([(r[0] + r[1]) / 2 if r else 0.0 for r in references]))
        self.register_buffer("scale", torch.tensor([(r[1] - r[0]) / 2 if r else 1.0 for r in references]))
        self.categorical = [(i, len(f.categories)) for i, f in enumerate(modality.fields) if f.categories]
        width = len(numeric) + sum(size for _, size in self.categorical) + len(modality.fields)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * config.d_h),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * config.d_h, config.d_h),
            nn.LayerNorm(config.d_h),
        )

    def forward(self, panels: Panels) -> tuple[Tensor, Tensor]:
        value = panels.value.masked_fill(~panels.present, 0)
        x, measured = value[:, self.numeric], panels.present[:, self.numeric]
        z = torch.asinh((x - self.centre) / self.scale) * measured
        parts = [z, panels.present.to(z.dtype)]
        for i, size in self.categorical:
            one_hot = nn.functional.one_hot(value[:, i].long(), size) * panels.present[:, i, None]
            parts.append(one_hot.to(z.dtype))
        tokens = self.mlp(torch.cat(parts, dim=-1))  # [n, d]
        return tokens, torch.ones(len(tokens), dtype=torch.long, device=tokens.device)

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


def _to_width(width: int, d_h: int) -> nn.Module:
    return nn.Identity() if width == d_h else nn.Linear(width, d_h)


KINDS = {"image": ImageEncoder, "text": TextEncoder, "values": PanelEncoder}


def build_encoder(modality: Modality, config: ModelConfig) -> nn.Module:
    """The encoder of a modality: its kind's own, or the class that "package.module:Class" names."""
    if modality.encoder is not None and ":" in modality.encoder:
        module, _, name = modality.encoder.partition(":")
        return getattr(importlib.import_module(module), name)(modality, config)
    return KINDS[modality.kind](modality, config)


class ModalityEncoders(nn.Module):
    """All encoders of a task, or those of the modalities in `only` (the others then count as absent):
    Batch -> Encoded. What is absent costs nothing."""

    def __init__(self, task: Task, config: ModelConfig, only: Collection[str] | None = None) -> None:
        super().__init__()
        self.d_h = config.d_h
        self.names = task.modality_names
        self.encoders = nn.ModuleDict(
            {m.name: build_encoder(m, config) for m in task.modalities if only is None or m.name in only}
        )

    def fit(self, batch: Batch) -> None:
        """Take from the training patients what encoders need to know about scales."""
        for name, encoder in self.encoders.items():
            panels = batch.inputs[name]
            if isinstance(encoder, PanelEncoder) and isinstance(panels, Panels):
                encoder.fit(panels)

    def forward(self, batch: Batch) -> Encoded:
        device = next(self.parameters()).device
        batch = tensors(batch, device)
        B, M = batch.presence.shape
        segments = torch.zeros(B, M, 2, dtype=torch.int32, device=device)
        H = torch.zeros(B, M, self.d_h, device=device)
        tokens, start = [torch.zeros(0, self.d_h, device=device)], 0
        for i, name in enumerate(self.names):
            rows = batch.inputs[name].rows
            if name not in self.encoders or len(rows) == 0:
                continue
            with of_rows(rows):
                x, lengths = self.encoders[name](batch.inputs[name])
            first = lengths.cumsum(0) - lengths
            segments[rows, i] = torch.stack([start + first, lengths], dim=-1).to(torch.int32)
            H = H.index_put((rows, torch.full_like(rows, i)), x[first].to(H.dtype))
            tokens.append(x)
            start += len(x)
        return Encoded(torch.cat(tokens), segments, H)
