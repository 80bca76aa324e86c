"""Prompts: what each modality of a patient says, as unit vectors of one shared space."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustmdiff.alignment.shortcuts import shortcut
from robustmdiff.data.batch import Batch
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.encoders.tensors import tensors
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import unknown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PART = 128  # patients embedded at once


class Prompts(NamedTuple):
    """h float32 [B, M, d], unit vectors in the task's order of modalities, 0 where absent; m bool [B, M]"""

    h: Tensor
    m: Tensor


class PromptEncoders(nn.Module):
    """Batch -> Prompts: an encoder for each modality, the same that a diagnosis model has, a linear
    projection without bias of its summary H_i, of the mean of its tokens and of what goes around both
    (`shortcuts`), and a length of 1. What is absent costs nothing and is never read.

    config  sizes of the encoders; d  width of the shared space
    only    the modalities that have an encoder, every one of the task if None; the others count as absent
    """

    def __init__(
        self, task: Task, config: EncoderConfig, *, d: int = 64, only: Collection[str] | None = None
    ) -> None:
        super().__init__()
        if d < 1:
            raise Refusal(f"PromptEncoders: d is {d}, expected at least 1")
        for name in only or ():
            if name not in task.modality_names:
                raise Refusal(f"PromptEncoders: {unknown('modality', name, task.modality_names)}")
        self.task, self.config, self.d = task, config, d
        self.encoders = ModalityEncoders(task, config, only)
        self.project = nn.ModuleDict(
            {name: nn.Linear(2 * config.d_h, d, bias=False) for name in self.encoders.encoders}
        )
        ways = {n: shortcut(task.modality(n), encoder, d) for n, encoder in self.encoders.encoders.items()}
        self.shortcuts = nn.ModuleDict({name: way for name, way in ways.items() if way is not None})

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities that have an encoder, in the task's order."""
        return tuple(self.project)

    def forward(self, batch: Batch) -> Prompts:
        """Of a batch that may lack modalities of the task, as one of `alone` does."""
        batch = tensors(batch, next(self.parameters()).device)
        encoded = self.encoders(batch)
        said = torch.cat([encoded.H, token_means(encoded)], dim=-1)  # [B, M, 2 d_h]
        h = encoded.H.new_zeros(*encoded.m.shape, self.d)
        for i, name in enumerate(self.task.modality_names):
            if name in self.project:
                own = self.project[name](said[:, i])
                if name in self.shortcuts and name in batch.inputs:
                    own = own + self._around(batch, encoded, i, name)
                h[:, i] = functional.normalize(own.float(), dim=-1)
        return Prompts(h.masked_fill(~encoded.m[..., None], 0), encoded.m)

    def _around(self, batch: Batch[Tensor], encoded: Encoded, i: int, name: str) -> Tensor:
        """What the shortcut of modality i says, [B, d]; 0 where absent."""
        seen = batch.inputs[name]
        nothing = encoded.H.new_zeros(len(batch), self.d)
        if len(seen.rows) == 0:
            return nothing
        start, length = encoded.segments[seen.rows, i].unbind(-1)
        tokens = encoded.tokens[start[0] : start[-1] + length[-1]]
        return nothing.index_copy(
            0, seen.rows, self.shortcuts[name](self.encoders.encoders[name], seen, tokens)
        )

    def joined(self, other: PromptEncoders) -> PromptEncoders:
        """These encoders and those of `other`, in the task of `other`, which may have further modalities. The
        encoders themselves are shared, not copied. Raises Refusal where the two do not go together."""
        check_goes_with(self, other.task, other.config, other.d)
        both = PromptEncoders(other.task, self.config, d=self.d, only=())
        for name in other.task.modality_names:
            for model in (self, other):
                if name in model.names:
                    both.encoders.encoders[name] = model.encoders.encoders[name]
                    both.project[name] = model.project[name]
                    if name in model.shortcuts:
                        both.shortcuts[name] = model.shortcuts[name]
        return both

    @torch.no_grad()
    def embed(self, patients: Sequence[Patient], tokenizer: Tokenizer | None = None) -> Prompts:
        """The prompts of patients of the task, on the CPU; a tokenizer where the model reads texts."""
        training = self.training
        self.eval()
        task = replace(self.task, modalities=tuple(map(self.task.modality, self.names)))
        collator = Collator(task, tokenizer, self.config.max_tokens)
        parts = [
            self(collator([alone(p, self.names) for p in patients[start : start + PART]]))
            for start in range(0, max(len(patients), 1), PART)
        ]
        self.train(training)
        return Prompts(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))


def token_means(encoded: Encoded) -> Tensor:
    """[B, M, d_h], the mean of each modality's tokens as encoders leave them end to end; 0 where absent."""
    length = encoded.segments[..., 1].T.long()  # [M, B], the order of the tokens
    owner = torch.repeat_interleave(torch.arange(length.numel(), device=length.device), length.flatten())
    total = torch.zeros_like(encoded.H).flatten(0, 1).index_add(0, owner, encoded.tokens)
    return total.view(*length.shape, encoded.H.shape[-1]).transpose(0, 1) / length.T.clamp(min=1)[..., None]


def alone(patient: Patient, names: Collection[str]) -> Patient:
    """The patient with no other modalities than these."""
    return replace(patient, modalities={name: patient.modalities.get(name) for name in names})


def check_goes_with(model: PromptEncoders, task: Task, config: EncoderConfig, d: int) -> None:
    """Refusal unless further encoders of this task and of these sizes can stand beside those of the model."""
    for what, ours, theirs in (("d", model.d, d), ("config", model.config, config)):
        if ours != theirs:
            raise Refusal(f"{what} is {theirs}, expected {ours}, as of the encoders that are aligned")
    for name in model.names:
        if name not in task.modality_names:
            raise Refusal(f"the aligned encoders: {unknown('modality', name, task.modality_names)}")
        own, other = (replace(t.modality(name), encoder=None, cost=1.0) for t in (model.task, task))
        if own != other:
            raise Refusal(f"modality {name!r} is {other}, expected {own}, as the aligned encoders read it")
