"""One link of the chain: who has both of its modalities, and what is minimised over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustmdiff.alignment.config import AlignConfig
from robustmdiff.alignment.contrast import Contrast
from robustmdiff.alignment.invariant import visual_invariant
from robustmdiff.alignment.prompts import PromptEncoders, alone
from robustmdiff.alignment.views import views_of
from robustmdiff.data.batch import Batch
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.encoders.tensors import tensors
from robustmdiff.refusal import Refusal
from robustmdiff.training.batches import PackedPatients
from robustmdiff.training.budget import Budget
from robustmdiff.training.contract import Objective, Part
from robustmdiff.training.order import Order

PAIRS = 10  # patients who have both modalities, for `links_of` to link them


class Link(NamedTuple):
    """Two modalities that the same patients have."""

    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.a}-{self.b}"

    def paired(self, patients: Sequence[Patient]) -> list[Patient]:
        """Those who have both, with nothing else. Raises Refusal where fewer than two do: there is nobody to
        tell apart."""
        both = [alone(p, self) for p in patients if p.has(self.a) and p.has(self.b)]
        if len(both) < 2:
            having = (sum(patient.has(name) for patient in patients) for name in self)
            a, b = (f"{n} have {name!r}" for n, name in zip(having, self, strict=True))
            raise Refusal(
                f"link {self}: {len(both)} of {len(patients)} patients have both ({a}, {b}), expected at "
                "least 2"
            )
        return both


def links_of(task: Task, patients: Sequence[Patient]) -> list[Link]:
    """From the hub, the first text or else the first modality that anyone has, to every other one that PAIRS
    patients have beside it; and to what is left from the aligned modality that most have beside it, if PAIRS
    do."""
    has = {name: [patient.has(name) for patient in patients] for name in task.modality_names}
    order = sorted(task.modality_names, key=lambda name: task.modality(name).kind != "text")
    hub = next((name for name in order if any(has[name])), None)
    if hub is None:
        return []

    def pairs(a: str, b: str) -> int:
        return sum(x and y for x, y in zip(has[a], has[b], strict=True))

    aligned = [hub]
    left = [name for name in task.modality_names if name != hub]
    links: list[Link] = []
    for name in [*left, *left]:  # those that the hub does not reach come after those that it does
        if name in aligned:
            continue
        among = aligned if len(links) and pairs(hub, name) < PAIRS else [hub]
        end = max(among, key=lambda other, name=name: pairs(other, name))  # type: ignore[misc]
        if pairs(end, name) >= PAIRS:
            links.append(Link(end, name))
            aligned.append(name)
    return links


class Linked(nn.Module):
    """What a link trains: the encoders of what is new, and the temperature."""

    def __init__(self, prompts: PromptEncoders) -> None:
        super().__init__()
        self.prompts, self.contrast = prompts, Contrast()


class LinkObjective(Objective):
    """InfoNCE(a, b) + lambda_vi L_VI, the latter a sum over the imaging modalities that train."""

    model: Linked

    def __init__(self, model: Linked, link: Link, config: AlignConfig) -> None:
        super().__init__(model)
        self.link, self.config = link, config
        self.generator = torch.Generator()

    def before_step(self, key: int) -> None:
        self.generator.manual_seed(key)

    def after_step(self) -> None:
        self.model.contrast.limit()

    def forward(self, batch: Batch, known: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """batch of patients who have all that trains; known [B, d], the prompts of the side that does not."""
        h = self._of_a_view(batch)
        a, b = (h.get(name, known) for name in self.link)
        assert a is not None
        assert b is not None
        loss = contrast = self.model.contrast(a, b)
        terms = {"contrast": contrast.detach()}
        images = [m.name for m in self.model.prompts.task.of_kind("image") if m.name in h]
        if images and self.config.lambda_vi > 0:
            other = self._of_a_view(replace(batch, inputs={name: batch.inputs[name] for name in images}))
            each = [visual_invariant(h[name], other[name], self.config.diag_weight) for name in images]
            invariant = torch.stack(each).sum()
            loss = contrast + self.config.lambda_vi * invariant
            terms["invariant"] = invariant.detach()
        return loss, terms

    def _of_a_view(self, batch: Batch) -> dict[str, Tensor]:
        """The prompts [B, d] of each modality of the batch."""
        prompts = self.model.prompts
        h = prompts(views_of(batch, prompts.task, self.generator)).h
        return {name: h[:, i] for i, name in enumerate(prompts.task.modality_names) if name in batch.inputs}


class LinkPlan:
    """A `Plan` of the patients of a link: every one once an epoch. known [n, d], the prompts of the side that
    does not train, goes along."""

    def __init__(self, patients: PackedPatients, known: Tensor | None, budget: Budget, seed: int) -> None:
        if len(patients) // budget.epoch_steps < 2:
            raise Refusal(
                f"a batch of {len(patients)} patients in {budget.epoch_steps} steps has 1, expected at least "
                "2: there is nobody to tell apart"
            )
        self.patients, self.known = patients, known
        self.order = Order(len(patients), budget, seed)
        self.epoch_steps, self.steps = budget.epoch_steps, budget.steps

    def parts(self, step: int, process: int, device: torch.device) -> Iterator[Part]:
        index = self.order.batch(step)
        batch = tensors(self.patients.take(index), device)
        inputs = (batch,) if self.known is None else (batch, self.known[torch.from_numpy(index)].to(device))
        yield Part(inputs, batch.ids, 1.0)
