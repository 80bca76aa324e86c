"""Training of a translation: the regression first, then the flow on what it leaves open."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from robustmdiff.diagnosis.noise import PatientNoise
from robustmdiff.generation.residual_flow import Known
from robustmdiff.generation.translation import Draft, Packed, Translation
from robustmdiff.refusal import Refusal
from robustmdiff.training.budget import budget
from robustmdiff.training.checkpoint import LAST
from robustmdiff.training.config import LoopConfig
from robustmdiff.training.contract import Objective, Validation
from robustmdiff.training.loop import Loop, TrainResult, claim, make_accelerator
from robustmdiff.training.order import VALIDATION, random_key
from robustmdiff.training.rows import RowPlan

TO, SHOWN, TIME, NOISE = range(4)  # streams of random numbers
AT_ONCE = 256  # frames, where nothing is learned
WATCHED = 128  # frames by which the width of draws is fitted


class TranslationConfig(LoopConfig):
    """How to train a translation."""

    learning_rate: float = Field(1.5e-3, gt=0, description="highest, after the warm-up; falls as a cosine")
    batch_size: int | None = Field(32, ge=1, description="frames per step, over all processes")
    epochs: int | None = Field(
        None, ge=1, description="of each stage; null: 20, more where these are few steps"
    )
    p_hidden: float = Field(0.5, ge=0, le=1, description="probability that only some sources are shown")
    steps: int = Field(4, ge=1, description="of a sample, for which the width of the draws is fitted")


def train_translation(
    translation: Translation,
    train: Packed,
    valid: Packed,
    config: TranslationConfig,
    out_dir: Path | str,
    resume: bool = False,
    device: torch.device | None = None,
) -> Translation:
    """Train both stages, in `out_dir`/draft and `out_dir`/flow, each of which leaves a checkpoint that works
    alone: of a `Draft`, and of a whole `Translation`. With resume, goes on where it stopped.

    train and valid come from `Draft.pack`, once the latents are fitted; of different patients. valid may be
    empty: then nothing says how far the draws for somebody new have to go. Raises as `Loop` does, and Refusal
    where no frame has both a target and another series.
    """
    out_dir = Path(out_dir)
    train_stage(DraftObjective(translation.draft, config), train, valid, out_dir / "draft", resume, device)
    train_stage(FlowObjective(translation, config), train, valid, out_dir / "flow", resume, device)
    return translation


def train_stage(
    objective: Stage,
    train: Packed,
    valid: Packed,
    out_dir: Path,
    resume: bool = False,
    device: torch.device | None = None,
) -> TrainResult:
    """One of the two; `train_translation` says what is what."""
    config, draft = objective.config, objective.draft
    frames, watched = teaching(train, draft), teaching(valid, draft)
    if len(frames.z) == 0:
        raise Refusal(
            f"of {len(train.z)} frames none has a target ({', '.join(draft.targets)}) and another series, "
            "expected at least one"
        )
    claim(out_dir, resume)
    accelerator = make_accelerator(config, out_dir, device)
    length = budget(len(frames.z), config, "frames")
    filled = {"batch_size": length.batch_size, "epochs": length.epochs, "valid_every": length.epochs}
    objective.to(accelerator.device)
    if not (out_dir / LAST).exists():
        objective.start(frames)
    validation = None
    if len(watched.z):
        validation = Validation(lambda: objective.measure(watched), None, False, f"{len(watched.z)} frames")
    plan = RowPlan(
        columns(frames),
        length,
        config.seed,
        processes=accelerator.num_processes,
        accumulate=config.accumulate,
    )
    return Loop(
        objective,
        plan,
        config.model_copy(update=filled),
        out_dir,
        accelerator,
        name=f"the {out_dir.name}",
        data={"series": draft.series, "targets": draft.targets, "present": frames.present.sum(0).tolist()},
        validation=validation,
        notes=length.notes,
    ).run()


class Stage(Objective):
    """A loss of rows that are asked for what chance says."""

    def __init__(self, model: Draft | Translation, config: TranslationConfig) -> None:
        super().__init__(model)
        self.config, self.key = config, 0

    @property
    @abstractmethod
    def draft(self) -> Draft: ...

    def before_step(self, key: int) -> None:
        self.key = key

    def noise(self, rows: Tensor) -> PatientNoise:
        return PatientNoise(rows, torch.tensor(self.key, device=rows.device))

    def seen(self, z: Tensor, present: Tensor, noise: PatientNoise) -> tuple[Tensor, Known]:
        """The latents [n, c, h, w] that are asked for, and what is known of them."""
        packed = Packed(z, present)
        shown, to = ask(packed, self.draft, noise, self.config.p_hidden)
        return self.draft.of_targets(packed, to), self.draft.known(shown, to)

    @torch.no_grad()
    def look(self, packed: Packed) -> tuple[Tensor, Known, PatientNoise]:
        """`seen` of all rows, the same every time."""
        self.before_step(random_key(self.config.seed, VALIDATION))
        device = next(self.parameters()).device
        parts = []
        for z, present, rows in zip(*(x.to(device).split(AT_ONCE) for x in columns(packed)), strict=True):
            target, known = self.seen(z, present, self.noise(rows))
            parts.append((target, *known, rows))
        target, draft, beside, told, rows = (torch.cat(each) for each in zip(*parts, strict=True))
        return target, Known(draft, beside, told), self.noise(rows)

    @abstractmethod
    def start(self, frames: Packed) -> None:
        """Measures what the first step needs."""

    @abstractmethod
    def measure(self, frames: Packed) -> dict[str, float]:
        """Of frames that are not learned from, when all is learned."""


class DraftObjective(Stage):
    """The squared error of the draft, in units of the latent."""

    model: Draft

    def __init__(self, model: Draft, config: TranslationConfig) -> None:
        super().__init__(model, config)
        model.network.requires_grad_(True)

    @property
    def draft(self) -> Draft:
        return self.model

    def forward(self, z: Tensor, present: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        target, known = self.seen(z, present, self.noise(rows))
        error = (known.draft - target).square().mean()
        return error, {"error": error.detach()}

    def start(self, frames: Packed) -> None:
        pass

    def measure(self, frames: Packed) -> dict[str, float]:
        target, known, _ = self.look(frames)
        return {"error": float((known.draft - target).square().mean())}


class FlowObjective(Stage):
    """That of the flow, around a draft that is not trained any more."""

    model: Translation

    def __init__(self, model: Translation, config: TranslationConfig) -> None:
        super().__init__(model, config)
        model.draft.network.requires_grad_(False)

    @property
    def draft(self) -> Draft:
        return self.model.draft

    def forward(self, z: Tensor, present: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        noise = self.noise(rows)
        with torch.no_grad():
            target, known = self.seen(z, present, noise)
        t = noise.normal(1, TIME)[:, 0].sigmoid()
        loss = self.model.flow.loss(target, t, known, key=noise.key(NOISE), row_ids=rows).mean()
        return loss, {"flow": loss.detach()}

    def start(self, frames: Packed) -> None:
        target, known, _ = self.look(frames)
        self.model.flow.fit(target - known.draft)

    def measure(self, frames: Packed) -> dict[str, float]:
        every = max(1, len(frames.z) // WATCHED)
        target, known, noise = self.look(Packed(*(each[::every] for each in frames)))
        drawn = {"key": noise.key(NOISE), "row_ids": noise.patient}
        return self.model.flow.fit_width(target, known, self.config.steps, **drawn)


def ask(packed: Packed, draft: Draft, noise: PatientNoise, p_hidden: float) -> tuple[Packed, Tensor]:
    """One of the targets that each row has, and what is shown of the others: all or, with probability
    p_hidden, some of them, one at least, every number of them as likely.

    -> what is shown, and the numbers of the targets, int64 [n]
    """
    S = len(draft.series)
    places = torch.tensor([draft.series.index(name) for name in draft.targets], device=packed.present.device)
    to = noise.uniform(len(places), TO).masked_fill(~packed.present[:, places], -1).argmax(1)
    others = packed.present & ~one_hot(places[to], S).bool()
    u = noise.uniform(S + 2, SHOWN)
    rank = u[:, :S].masked_fill(~others, 2).argsort(1).argsort(1)
    count = others.sum(1)
    some = torch.minimum(1 + (u[:, S] * count).long(), count)
    kept = some.where(u[:, S + 1] < p_hidden, count)
    return Packed(packed.z, others & (rank < kept[:, None])), to


def columns(packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """What steps go through: the rows, and their numbers."""
    return packed.z, packed.present, torch.arange(len(packed.z))


def teaching(packed: Packed, draft: Draft) -> Packed:
    """The rows that have a target and another series."""
    targets = [draft.series.index(name) for name in draft.targets]
    rows = packed.present[:, targets].any(1) & (packed.present.sum(1) >= 2)
    return Packed(*(each[rows] for each in packed))
