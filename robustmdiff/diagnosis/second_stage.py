"""The second stage: what is learned on the latents of a model that no longer changes.

forecast.json          which kind of forecast it is
forecast.safetensors   weights; written last: with it the stage is finished
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from robustmdiff.data.task import Task
from robustmdiff.diagnosis.temperature import Said, fit_temperature
from robustmdiff.diagnosis.width import SPREAD, fitted_spread
from robustmdiff.diffusion.schedule import Schedule
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.forecast.contract import Pairs, Seen, where_new
from robustmdiff.forecast.ddpm import DDPMForecast
from robustmdiff.forecast.donor import DonorForecast
from robustmdiff.forecast.flow import FlowForecast
from robustmdiff.forecast.gaussian import GaussianForecast, Noise
from robustmdiff.forecast.head import FullViewHead
from robustmdiff.labels import Labels
from robustmdiff.ops import philox_key
from robustmdiff.refusal import Refusal
from robustmdiff.whole import write_whole

KIND, WEIGHTS = "forecast.json", "forecast.safetensors"
KINDS = ("flow", "ddpm")
PART = 4096  # rows at a time
BEFORE_WIDTH = 1.2  # the spread of every stage that was saved without one
DRAWS = 64  # by which the spread is fitted
FEW = 500  # patients: of fewer, others of the class lend views as well


class Frozen(Protocol):
    """What is asked of the model whose latents a stage is learned on, and which no longer changes: see
    `RobustMDiff`."""

    task: Task
    config: ModelConfig
    labels: Labels
    log_weight: Tensor
    condensed: int  # numbers of y

    @property
    def log_tau(self) -> Tensor: ...
    def logits_from(self, y: Tensor) -> Tensor: ...
    def probability_from(self, y: Tensor) -> Tensor: ...


class SecondStage(nn.Module):
    """kind      of the forecast, one of KINDS
    forecast  of the latent under a fuller view
    head      a diagnosis of what the fuller view will confirm
    T         float64 [M + 1], what its logits are divided by where k modalities are visible
    change    [M], total variation: how far seeing modality j as well moved the diagnosis of the fitting
              patients, on average; NaN where it never was there to be seen
    """

    forecast: GaussianForecast
    T: Tensor
    change: Tensor

    def __init__(self, kind: str, model: Frozen) -> None:
        super().__init__()
        if kind not in KINDS:
            raise Refusal(f"SecondStage: kind is {kind!r}, expected one of {', '.join(KINDS)}")
        M, C, D = len(model.task.modalities), len(model.task.classes), model.condensed
        config, labels = model.config, model.labels
        self.kind = kind
        if kind == "flow":
            self.forecast = FlowForecast(D, M, C, labels)
        else:
            schedule = Schedule(config.T, config.beta_schedule, config.steps)
            self.forecast = DDPMForecast(D, M, C, labels, schedule=schedule)
        self.head = FullViewHead(D, M, C, labels)
        self.register_buffer("T", torch.ones(M + 1, dtype=torch.float64))
        self.register_buffer("change", torch.full((M,), torch.nan))

    def fit(self, model: Frozen, pairs: Pairs, seed: int) -> None:
        """Learn from the pairs of the model (`latents.pairs_of`), on their device; the seed is all the
        randomness."""
        device = pairs.y.device
        self.to(device)
        self.change = mean_change(model, pairs)
        keys = [philox_key(seed, use, device=device) for use in (1, 2, 3, 4)]
        self.forecast.fit(with_lent(model, pairs, keys[2]), keys[0])
        whole = pairs.take(of_everything(pairs))
        logits = in_parts(model.logits_from, whole.seen.y) - model.log_weight
        target = in_parts(model.probability_from, whole.y)
        self.head.fit(whole, logits, target, keys[1])
        watching = whole.take(whole.watching)
        self.T = self._temperature(model, watching).to(device)
        self.forecast.spread.fill_(self._spread(model, watching, keys[3]))
        self.eval()

    def draw(self, model: Frozen, seen: Seen, view: Tensor, draws: int, key: Tensor) -> Tensor:
        """Draws of y under the view, as `Forecast.draw`; the class is drawn from what the head says."""
        return self.forecast.draw(self.expecting(model, seen), view, draws, key)

    def drawn(self, model: Frozen, seen: Seen, view: Tensor, noise: Noise) -> Tensor:
        """The same, of noise that is given (`forecast.noise`)."""
        return where_new(self.forecast.made_of(noise, self.expecting(model, seen), view), seen, view)

    def expecting(self, model: Frozen, seen: Seen) -> Seen:
        """The same, with the head's diagnosis."""
        return seen._replace(p=model.labels.probability(self.expected(model, seen)))

    def expected(self, model: Frozen, seen: Seen) -> Tensor:
        """What the head says, logits [n, C]; the weights of rare classes are taken off."""
        logits = self.head(seen, model.logits_from(seen.y) - model.log_weight)
        return logits / self.T[seen.m.sum(1)].to(logits.dtype)[:, None]

    @torch.no_grad()
    def _temperature(self, model: Frozen, pairs: Pairs) -> Tensor:
        """T for these patients, whom nothing was fitted to: of the others a model is too sure."""
        logits = self.expected(model, pairs.seen).double().cpu()
        label, known, person = (x.cpu() for x in (pairs.label, pairs.known, pairs.patient))
        once = torch.ones(len(logits), dtype=torch.float64)
        said = Said(logits, pairs.seen.m.sum(1).cpu(), label, known, person, once)
        unweighted = torch.zeros(logits.shape[1], dtype=torch.float64)
        return fit_temperature(said, pairs.view.shape[1], model.labels, unweighted).T

    @torch.no_grad()
    def _spread(self, model: Frozen, pairs: Pairs, key: Tensor) -> float:
        """By these patients' posteriors; the forecast's expectation where there are none."""
        if not len(pairs.y):
            return SPREAD
        pairs = pairs.take(torch.arange(0, len(pairs.y), 1 + len(pairs.y) // PART, device=pairs.y.device))
        seen, rows = self.expecting(model, pairs.seen), torch.arange(len(pairs.y), device=pairs.y.device)

        def draw(spread: float) -> Tensor:
            self.forecast.spread.fill_(spread)
            some = rows.split(PART // DRAWS)
            return torch.cat([self.forecast.draw(seen.take(of), pairs.view[of], DRAWS, key) for of in some])

        near = draw(0.0)
        beyond = draw(1.0) - near  # a draw goes straight away from its mean

        def posterior(spread: float) -> Tensor:
            return in_parts(model.probability_from, near + spread * beyond)

        became = in_parts(model.probability_from, pairs.y)
        return fitted_spread(posterior, became, pairs.seen.p, len(pairs.patient.unique()))

    def save(self, folder: Path) -> None:
        write_whole(folder / KIND, json.dumps({"kind": self.kind}).encode())
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        write_whole(folder / WEIGHTS, save(state, {"format": "pt"}))

    @classmethod
    def load(cls, folder: Path, model: Frozen) -> Self:
        """Raises Refusal for a file that `save` did not write, or that was damaged since."""
        try:
            stage = cls(json.loads((folder / KIND).read_text(encoding="utf-8"))["kind"], model)
            before = {"forecast.spread": torch.tensor(BEFORE_WIDTH)}
            stage.load_state_dict(before | load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise Refusal(f"{folder / WEIGHTS}: is no second stage of this model ({reason})") from error
        return stage.eval()


def with_lent(model: Frozen, pairs: Pairs, key: Tensor) -> Pairs:
    """The pairs and, of few patients, as many again whose fuller views others of the class lend.

    A network that is told y_m soon knows 300 patients by heart. Lent views made the energy score .000 to .002
    smaller and intervals of .90 hold .02 more (the cohort, 300 patients, two seeds each of data and of
    networks); with 1,000 patients they made it .001 larger.
    """
    own = pairs.take(~pairs.watching)
    if len(own.patient.unique()) >= FEW:
        return pairs
    donor = DonorForecast(model.log_tau.exp(), model.labels)
    donor.fit(own, key)
    return Pairs.join([pairs, donor.lend(own, key)])


def mean_change(model: Frozen, pairs: Pairs) -> Tensor:
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
