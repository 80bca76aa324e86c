"""A diagnosis from a completed record: a generator fills in what a patient lacks, a plain fusion reads all.

`MedM2GCompletion` and `MedCoDiMCompletion` use the published descriptions of MedM2G (Zhan et al. 2024) and
of MedCoDi-M (Molino et al. 2025) for what both are proposed for: patients of whom modalities are missing.
Neither says how a diagnosis is made of what was generated. Here that is a reconstruction, in three steps on
the same training patients (`CompletedFusion.prepare`, then the training of every baseline):

1. encoders are aligned along links, text as the hub (`alignment.chain.align`);
2. a `MultiFlow` learns each modality's aligned vector, guided by the others';
3. encoders, which start from the aligned ones, and a fusion learn to diagnose from the summaries of what is
   there and the generated vectors of what is not, one draw a patient and step. The generator and the aligned
   encoders no longer change.

What is generated is the aligned vector, not pixels and words. It is what these systems condition everything
on. It exists for every kind of modality, a panel of values as well, of which neither system has a generator.
And to generate an observation only for an encoder to reduce it to that vector would cost hundreds of times
as much.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from robustmdiff.alignment.chain import align
from robustmdiff.alignment.config import AlignConfig
from robustmdiff.alignment.link import Link, links_of
from robustmdiff.alignment.pretrained import load_aligned
from robustmdiff.alignment.prompts import PromptEncoders
from robustmdiff.baselines.heads import FindingHeads, class_head
from robustmdiff.data.batch import Batch
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import DiagnosisModel, Logits
from robustmdiff.diagnosis.losses import Losses, class_loss
from robustmdiff.diagnosis.noise import PatientNoise
from robustmdiff.diffusion.sample import pure_noise
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.generation.completion import complete
from robustmdiff.generation.flow_objective import FlowConfig, Stage
from robustmdiff.generation.flow_training import FlowData, published_stages, train_flows
from robustmdiff.generation.multi_flow import MultiFlow
from robustmdiff.generation.networks.cross_guidance import HEADS
from robustmdiff.nn.dropout import patient_numbers
from robustmdiff.ops import philox_key
from robustmdiff.refusal import Refusal
from robustmdiff.training.budget import budget
from robustmdiff.training.config import TrainConfig

STEPS = 4  # of the sampler
FLOW_EPOCHS = 5  # times as many as the diagnosis has: a step of small vectors costs little
SAVE_EVERY = 500  # of these steps, of which an epoch may have one


class CompletedFusion(DiagnosisModel):
    """logits = head(GELU(LayerNorm(sum_i W_i x_i))), x_i the summary of a modality that is there, or the
    generated vector of one that is not, with weights of its own that start at 0. The probability is the mean
    over `config.draws` completions; the diagnosis of a patient who has nothing is the prevalence, as of all.

    guidance  how strongly the generator follows what is there (`generation.completion.complete`)

    able      bool [M], the modalities that are generated: those that are aligned (`alignment.link.links_of`).
              The others stay absent where they are.
    reads     whether what is there is read by the flows, or prompts them only
    invariant weight of the visual invariant in the alignment
    """

    reads: ClassVar[bool]
    invariant: float = 0.0
    able: Tensor
    step: Tensor

    def __init__(self, task: Task, config: ModelConfig, *, guidance: float = 1.0) -> None:
        if not 0 <= guidance < 100:
            raise Refusal(f"guidance is {guidance}, expected a number from 0 to below 100")
        super().__init__(task, config, ModalityEncoders(task, config))
        self.guidance = guidance
        d, M = config.d_h, len(task.modalities)
        self.prompts = PromptEncoders(task, config.of_encoders, d=d).requires_grad_(False)
        shapes = dict.fromkeys(task.modality_names, (d,))
        width = math.ceil(config.width / HEADS) * HEADS
        self.flows = MultiFlow(task, shapes, d, width=width, depth=config.depth).requires_grad_(False)
        self.register_buffer("able", torch.full((M,), M > 1))
        of_there = torch.randn(M, d, d) * d**-0.5
        self.W = nn.Parameter(torch.stack([of_there, torch.zeros_like(of_there)]))  # and of what is generated
        self.b = nn.Parameter(torch.zeros(2, M, d))
        self.hidden = nn.Sequential(nn.LayerNorm(d), nn.GELU(), nn.Dropout(config.dropout))
        self.head = class_head(d, self.labels.log_prior(task.prevalence))
        self.findings = FindingHeads(task, d) if task.findings else None
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    # The generator

    @abstractmethod
    def stages(self, links: Sequence[Link]) -> list[Stage]:
        """How the flows are trained, one stage after the other."""

    @abstractmethod
    def flow_config(self) -> FlowConfig:
        """How each of the stages is."""

    def prepare(
        self,
        patients: Sequence[Patient],
        collator: Callable[[Sequence[Patient]], Batch],
        config: TrainConfig,
        folder: Path,
        resume: bool,
        device: torch.device | None,
    ) -> None:
        links = links_of(self.task, patients)
        aligned_names = {name for link in links for name in link}
        self.able.copy_(torch.tensor([name in aligned_names for name in self.task.modality_names]))
        if not links:
            return
        tokenizer = collator.tokenizer if isinstance(collator, Collator) else None
        epochs = budget(len(patients), config).epochs
        same = {"seed": config.seed, "batch_size": config.batch_size}
        sizes = {"model": self.prompts.config, "d": self.prompts.d}
        aligning = AlignConfig.model_validate(sizes | same | {"epochs": epochs, "lambda_vi": self.invariant})
        aligned = align(
            self.task,
            links,
            patients,
            aligning,
            folder,
            tokenizer=tokenizer,
            resume=resume,
            device=device,
        )
        self.prompts.load_state_dict(aligned.state_dict(), strict=False)  # of those that are aligned
        if self.encoders is not None:
            load_aligned(self.encoders, aligned)
        h, m = aligned.embed(patients, tokenizer)
        latents = dict(zip(self.flows.names, (h.shape[2] ** 0.5 * h).unbind(1), strict=True))
        data = FlowData(latents, dict(zip(self.flows.names, m.unbind(1), strict=True)), h, m)
        lasting = {"epochs": FLOW_EPOCHS * epochs, "save_every": SAVE_EVERY}
        flowing = self.flow_config().model_copy(update=same | lasting)
        train_flows(self.flows, data, self.stages(links), flowing, folder, resume, device)
        self.flows.requires_grad_(False)

    def completed(self, encoded: Encoded, noise: Tensor) -> Tensor:
        """The aligned vectors of what is visible and of what is generated: noise [S, B, M, d], where each of
        S completions begins -> [S, B, M, d]."""
        S = len(noise)
        m = encoded.m.repeat(S, 1)
        made = complete(
            self.flows,
            encoded.H[..., self.config.d_h :].repeat(S, 1, 1),
            m,
            self._lacking(m),
            noise.flatten(0, 1),
            steps=STEPS,
            guidance=self.guidance,
            reads=self.reads,
        )
        return made.view(noise.shape)

    def _lacking(self, m: Tensor) -> Tensor:
        return ~m & self.able & m.any(1, keepdim=True)

    # The diagnosis

    def encode(self, batch: Batch) -> Encoded:
        """H [B, M, 2 d_h]: the summary of each modality beside its aligned vector."""
        encoded = super().encode(batch)
        with torch.no_grad():
            h = self.prompts(batch).h
        return encoded._replace(H=torch.cat([encoded.H, h.to(encoded.H.dtype)], dim=-1))

    def _fused(self, encoded: Encoded, noise: Tensor) -> tuple[Tensor, Tensor]:
        """-> H with absent rows 0 [B, M, d], and the hidden layer [S, B, d] of the completions."""
        d, m = self.config.d_h, encoded.m
        H = encoded.H[..., :d].masked_fill(~m[..., None], 0)
        lacking = self._lacking(m)
        made = (d**0.5 * self.completed(encoded, noise)).masked_fill(~lacking[..., None], 0)
        there = torch.einsum("bmd,mde->be", H, self.W[0]) + m.to(H.dtype) @ self.b[0]
        filled = torch.einsum("sbmd,mde->sbe", made, self.W[1]) + lacking.to(H.dtype) @ self.b[1]
        x = there + filled
        return H, self.hidden(x.flatten(0, 1)).view(x.shape)  # patients first: dropout is theirs

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        """L_class and L_find, of one completion."""
        student = encoded.keep(kept)
        B, M = kept.shape
        d, patients = self.config.d_h, patient_numbers(batch.ids, self.step.device)
        noise = PatientNoise(patients, self.step).normal(M * d, stream=1)
        H, x = self._fused(student, noise.view(1, B, M, d))
        x = x[0]
        return Losses(
            L_class=class_loss(self.labels, self.head(x), batch, weight),
            L_find=0.0 if self.findings is None else self.findings.loss(x, H, student.m, batch),
        )

    def before_step(self, key: int) -> None:
        self.step.fill_(key)

    def imagined(self, encoded: Encoded, *, draws: int, seed: int) -> Logits:
        """Of `draws` completions. Draw s begins with the same noise for every patient."""
        (B, M), d, device = encoded.m.shape, self.config.d_h, encoded.m.device
        blank = torch.zeros(draws, M * d, device=device)
        noise = pure_noise(blank, philox_key(seed, device=device), torch.arange(draws, device=device))
        _, x = self._fused(encoded, noise.view(draws, 1, M, d).expand(draws, B, M, d))
        return Logits(self.head(x))

    def classify(self, encoded: Encoded) -> Logits:
        """Of the mean over `config.draws` completions."""
        drawn = self.imagined(encoded, draws=self.config.draws, seed=0)
        return Logits(self.labels.averaged(drawn.logits))

    def train(self, mode: bool = True) -> Self:
        """The generator stays as it is, without dropout."""
        super().train(mode)
        self.prompts.eval()
        self.flows.eval()
        return self


class MedM2GCompletion(CompletedFusion):
    """Aligned with the visual invariant, flows trained together, which read what is there and one another.

    invariant  weight of the visual invariant; 0: none
    """

    reads = True

    def __init__(
        self, task: Task, config: ModelConfig, *, guidance: float = 1.0, invariant: float = 0.02
    ) -> None:
        super().__init__(task, config, guidance=guidance)
        self.invariant = invariant

    def stages(self, links: Sequence[Link]) -> list[Stage]:
        return [Stage("together", _linked(links), "all")]

    def flow_config(self) -> FlowConfig:
        return FlowConfig(known=0.5)


class MedCoDiMCompletion(CompletedFusion):
    """Aligned by contrast alone; each flow is trained by itself with several prompts, one other modality,
    another or both, a tenth of them null, and then how the flows read one another, link by link. What is
    there prompts, and is not read.

    Of several prompts the mean has learned weights (`PromptMixing`), where the description has equal ones.
    """

    reads = False

    def stages(self, links: Sequence[Link]) -> list[Stage]:
        return published_stages(links)

    def flow_config(self) -> FlowConfig:
        return FlowConfig(null=0.1, unprompted=0.0)


def _linked(links: Sequence[Link]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for link in links for name in link))
