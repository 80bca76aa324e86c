"""The second stage: what is learned on the latents of a model that no longer changes.

forecast.json          which kind of forecast it is
forecast.safetensors   weights; written last: with it the stage is finished
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.calibration import Collate
from robustmdiff.diagnosis.latents import pairs_of
from robustmdiff.diffusion.schedule import Schedule
from robustmdiff.forecast.contract import Forecast, Pairs, Seen
from robustmdiff.forecast.ddpm import DDPMForecast
from robustmdiff.forecast.flow import FlowForecast
from robustmdiff.forecast.head import FullViewHead
from robustmdiff.ops import philox_key
from robustmdiff.refusal import Refusal
from robustmdiff.whole import write_whole

if TYPE_CHECKING:
    from robustmdiff.diagnosis.model import RobustMDiff

KIND, WEIGHTS = "forecast.json", "forecast.safetensors"
KINDS = ("flow", "ddpm")
PART = 4096  # rows at a time


class SecondStage(nn.Module):
    """kind      of the forecast, one of KINDS
    forecast  of the latent under a fuller view
    head      a diagnosis of what the fuller view will confirm
    change    [M], total variation: how far seeing modality j as well moved the diagnosis of the fitting
              patients, on average; NaN where it never was there to be seen
    """

    forecast: Forecast
    change: Tensor

    def __init__(self, kind: str, model: RobustMDiff) -> None:
        super().__init__()
        if kind not in KINDS:
            raise Refusal(f"SecondStage: kind is {kind!r}, expected one of {', '.join(KINDS)}")
        M, C, D = len(model.task.modalities), len(model.task.classes), model.condensed
        exclusive, config = model.labels.exclusive, model.config
        self.kind = kind
        if kind == "flow":
            self.forecast = FlowForecast(D, M, C, exclusive=exclusive)
        else:
            schedule = Schedule(config.T, config.beta_schedule, config.steps)
            self.forecast = DDPMForecast(D, M, C, exclusive=exclusive, schedule=schedule)
        self.head = FullViewHead(D, M, C, model.labels)
        self.register_buffer("change", torch.full((M,), torch.nan))

    def fit(self, model: RobustMDiff, pairs: Pairs, seed: int) -> None:
        """Learn from the pairs of the model (`latents.pairs_of`), on their device; the seed is all the
        randomness."""
        device = pairs.y.device
        self.to(device)
        self.change = mean_change(model, pairs)
        self.forecast.fit(pairs, philox_key(seed, 1, device=device))
        whole = pairs.take(of_everything(pairs))
        logits = in_parts(model.logits_from, whole.seen.y) - model.log_weight
        target = in_parts(model.probability_from, whole.y)
        self.head.fit(whole.seen, logits, target, whole.patient, philox_key(seed, 2, device=device))
        self.eval()

    def draw(self, model: RobustMDiff, seen: Seen, view: Tensor, draws: int, key: Tensor) -> Tensor:
        """Draws of y under the view, as `Forecast.draw`; the class is drawn from what the head says."""
        p = model.labels.probability(self.expected(model, seen))
        return self.forecast.draw(seen._replace(p=p), view, draws, key)

    def expected(self, model: RobustMDiff, seen: Seen) -> Tensor:
        """What the head says, logits [n, C]; the weights of rare classes are taken off."""
        return self.head(seen, model.logits_from(seen.y) - model.log_weight)

    def save(self, folder: Path) -> None:
        write_whole(folder / KIND, json.dumps({"kind": self.kind}).encode())
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        write_whole(folder / WEIGHTS, save(state, {"format": "pt"}))

    @classmethod
    def load(cls, folder: Path, model: RobustMDiff) -> Self:
        """Raises Refusal for a file that `save` did not write, or that was damaged since."""
        try:
            stage = cls(json.loads((folder / KIND).read_text(encoding="utf-8"))["kind"], model)
            stage.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise Refusal(f"{folder / WEIGHTS}: is no second stage of this model ({reason})") from error
        return stage.eval()


def fit_second_stage(
    model: RobustMDiff, patients: Sequence[Patient], collator: Collate, kind: str, seed: int, folder: Path
) -> None:
    """Gives the model a second stage, learned on these patients, whom it was trained on, and kept in the
    folder; one that is there is taken."""
    if (folder / WEIGHTS).exists():
        model.second_stage = SecondStage.load(folder, model).to(model.log_prior.device)
        return
    stage = SecondStage(kind, model)
    stage.fit(model, pairs_of(model, patients, collator, seed), seed)
    stage.save(folder)
    model.second_stage = stage


def mean_change(model: RobustMDiff, pairs: Pairs) -> Tensor:
    """[M], over the pairs whose view has one modality more: what a fixed order of tests goes by."""
    added = pairs.view & ~pairs.seen.m
    one = pairs.take(added.sum(1) == 1)
    added = one.view & ~one.seen.m
    moved = model.labels.distance(one.seen.p, in_parts(model.probability_from, one.y))
    return (added * moved[:, None]).sum(0) / added.sum(0)


def of_everything(pairs: Pairs) -> Tensor:
    """The pairs whose view is all that the patient has, bool [n]."""
    size = pairs.view.sum(1)
    most = torch.zeros(int(pairs.patient.max()) + 1, dtype=size.dtype, device=size.device)
    return size == most.scatter_reduce(0, pairs.patient, size, "amax")[pairs.patient]


@torch.no_grad()
def in_parts(ask: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """ask(y) of many rows, in memory for few."""
    return torch.cat([ask(part) for part in y.split(PART)])
