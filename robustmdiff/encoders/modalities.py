"""All encoders of a task side by side: a batch in, its tokens on one axis and summaries out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from robustmdiff.data.batch import Batch, Input
from robustmdiff.data.modality import Modality
from robustmdiff.data.task import Task
from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.encoder import Encoder
from robustmdiff.encoders.kinds import ENCODERS
from robustmdiff.encoders.own import check_output, is_own, load_own, try_out
from robustmdiff.encoders.tensors import take, tensors
from robustmdiff.nn.dropout import of_rows


def build_encoder(modality: Modality, config: EncoderConfig) -> nn.Module:
    """The encoder of a modality: its kind's own, or the class that "package.module:Class" names."""
    if not is_own(modality):
        return ENCODERS[modality.kind](modality, config)
    encoder = load_own(modality, config)
    try_out(encoder, modality, config)
    return encoder


class ModalityEncoders(nn.Module):
    """All encoders of a task, or those of the modalities in `only` (the others then count as absent):
    Batch -> Encoded. What is absent costs nothing."""

    def __init__(self, task: Task, config: EncoderConfig, only: Collection[str] | None = None) -> None:
        super().__init__()
        self.d_h = config.d_h
        self.names = task.modality_names
        self.encoders = nn.ModuleDict(
            {m.name: build_encoder(m, config) for m in task.modalities if only is None or m.name in only}
        )
        self.own = {m.name: m for m in task.modalities if is_own(m)}

    def fit(self, batch: Batch) -> None:
        """Let the encoders take what they need to know about scales from the training patients."""
        for name, encoder in self.encoders.items():
            if isinstance(encoder, Encoder):
                encoder.fit(batch.inputs[name])

    def forward(self, batch: Batch, learns: Tensor | None = None) -> Encoded:
        """learns  bool [B, M], what shall have a gradient; everything, unless given."""
        batch = tensors(batch, next(self.parameters()).device)
        outputs = {}
        for i, name in enumerate(self.names):
            observations = batch.inputs.get(name)
            if name not in self.encoders or observations is None or len(observations.rows) == 0:
                continue
            if learns is None:
                outputs[name] = self._outputs(name, observations)
            else:
                outputs[name] = self._apart(name, observations, learns[observations.rows, i])
        return self.side_by_side(outputs, len(batch))

    def _outputs(self, name: str, observations: Input[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, tokens, lengths)"""
        with of_rows(observations.rows):
            tokens, lengths = output = self.encoders[name](observations)
        if name in self.own:
            check_output(self.own[name], self.d_h, len(observations.rows), output)
        return observations.rows, tokens, lengths

    def _apart(self, name: str, observations: Input[Tensor], learns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, those that learn first; the others' gradient would cost as much as theirs."""
        if bool(learns.all()):
            return self._outputs(name, observations)
        parts = []
        for which, context in ((learns, nullcontext()), (~learns, torch.no_grad())):
            chosen = which.nonzero()[:, 0]
            if len(chosen):
                with context:
                    parts.append(self._outputs(name, take(observations, chosen)))
        rows, tokens, lengths = (torch.cat(each) for each in zip(*parts, strict=True))
        return rows, tokens, lengths

    def side_by_side(self, outputs: Mapping[str, tuple[Tensor, Tensor, Tensor]], patients: int) -> Encoded:
        """What encoders gave, end to end. outputs: by modality, (rows, tokens, lengths), where rows int64 [n]
        says whose of the patients they are."""
        device = next(self.parameters()).device
        segments = torch.zeros(patients, len(self.names), 2, dtype=torch.int32, device=device)
        tokens, start = [torch.zeros(0, self.d_h, device=device)], 0
        for i, name in enumerate(self.names):
            if name not in outputs:
                continue
            rows, x, lengths = outputs[name]
            first = start + lengths.cumsum(0) - lengths
            segments[rows, i] = torch.stack([first, lengths], dim=-1).to(torch.int32)
            tokens.append(x)
            start += len(x)
        everything = torch.cat(tokens)
        return Encoded(everything, segments, summaries(everything, segments))


def summaries(tokens: Tensor, segments: Tensor) -> Tensor:
    """H [B, M, d]: the first token of every segment, 0 for an absent one."""
    start, length = segments.unbind(-1)
    if tokens.shape[0] == 0:
        return tokens.new_zeros(*start.shape, tokens.shape[1])
    return tokens[start.long()].masked_fill(length[..., None] == 0, 0)
