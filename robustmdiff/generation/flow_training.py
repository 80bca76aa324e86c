"""Training of a multi-flow model in stages, each a run of its own in out/stages/NAME."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustmdiff.generation.flow_objective import FlowConfig, FlowObjective, Stage
from robustmdiff.generation.multi_flow import MultiFlow
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import unknown
from robustmdiff.training.budget import budget
from robustmdiff.training.loop import Loop, TrainResult, claim, make_accelerator
from robustmdiff.training.rows import RowPlan


def published_stages(links: Sequence[tuple[str, ...]]) -> list[Stage]:
    """Each flow by itself; then, with these frozen, one link after the other, each a stage that freezes what
    those before it have linked. MedM2G's links are text-X-ray, text-CT and CT-MRI."""
    flows = dict.fromkeys(name for link in links for name in link)
    alone = [Stage(name, (name,), "flows") for name in flows]
    return [*alone, *(Stage("-".join(link), tuple(link), "links") for link in links)]


def medcodi_m(frontal: str, lateral: str, report: str) -> list[Stage]:
    """MedCoDi-M's stages (Molino et al. 2025) for the modalities of these names: the views are linked, then
    the report to the lateral one."""
    return published_stages([(frontal, lateral), (lateral, report)])


class FlowData(NamedTuple):
    """n patients.

    latents   [n, *shape] by modality
    presence  bool [n] by modality; what is absent may hold anything
    h, m      prompts [n, M, d] and which there are, bool [n, M]
    """

    latents: Mapping[str, Tensor]
    presence: Mapping[str, Tensor]
    h: Tensor
    m: Tensor


def train_flows(
    model: MultiFlow,
    data: FlowData,
    stages: Sequence[Stage],
    config: FlowConfig | Mapping[str, FlowConfig],
    out_dir: Path | str,
    resume: bool = False,
    device: torch.device | None = None,
) -> list[TrainResult]:
    """Train a model through the stages, one after the other; each leaves a checkpoint of the whole model that
    works alone. With resume, goes on in the stage that was stopped, at its step.

    config  of all stages, or of each by name. Patients of a stage have at least one of its flows, or two
            where only reading is trained.
    Raises Refusal for a flow that the model or the data lack, and for a stage without such patients; else as
    `Loop`.
    """
    results: list[TrainResult] = []
    linked: list[Stage] = []
    for stage in stages:
        own = config if isinstance(config, FlowConfig) else config[stage.name]
        model.requires_grad_(False)
        for module in trained_by(model, stage, linked):
            module.requires_grad_(True)
        folder = Path(out_dir) / "stages" / stage.name
        results.append(_run(model, data, stage, own, folder, resume, device))
        if stage.trains != "flows":
            linked.append(stage)
    model.requires_grad_(True)
    return results


def trained_by(model: MultiFlow, stage: Stage, linked: Sequence[Stage]) -> Iterator[nn.Module | nn.Parameter]:
    """What a stage trains, after those that linked flows."""
    flows = {name: model.flow(name) for name in stage.flows}
    if stage.trains != "links":
        for flow in flows.values():
            yield from (flow.network, flow.mixing)
    if stage.trains != "flows":
        frozen = {name for each in linked for name in each.flows} if stage.trains == "links" else set()
        for name, flow in flows.items():
            if name not in frozen:
                yield from (flow.environment, flow.gates)
            if model.sharing[name] not in {model.sharing[other] for other in frozen}:
                yield model.cross[model.sharing[name]]


def _run(
    model: MultiFlow,
    data: FlowData,
    stage: Stage,
    config: FlowConfig,
    folder: Path,
    resume: bool,
    device: torch.device | None,
) -> TrainResult:
    for name in stage.flows:
        if name not in data.latents:
            raise Refusal(f"stage {stage.name!r}: {unknown('modality', name, list(data.latents))}")
    present = torch.stack([data.presence[name] for name in stage.flows], dim=1)
    enough = present.sum(1) >= (2 if stage.trains == "links" else 1)
    rows = enough.nonzero()[:, 0]
    if not len(rows):
        raise Refusal(
            f"stage {stage.name!r}: nobody has what it trains of {', '.join(stage.flows)}, expected a patient"
        )
    claim(folder, resume)
    accelerator = make_accelerator(config, folder, device)
    length = budget(len(rows), config)
    columns = [rows, data.h[rows], data.m[rows], present[rows]]
    for name in stage.flows:  # what is absent is not read, not even to be multiplied by 0
        there = data.presence[name][rows]
        z = data.latents[name][rows]
        columns.append(z.masked_fill(~there.view(-1, *[1] * (z.dim() - 1)), 0))
    processes = accelerator.num_processes
    return Loop(
        FlowObjective(model, stage, config),
        RowPlan(columns, length, config.seed, processes=processes, accumulate=config.accumulate),
        config,
        folder,
        accelerator,
        name=stage.name,
        data={"stage": stage._asdict(), "patients": len(rows)},
        notes=length.notes,
    ).run()
