"""The whole of a trained model as one function of arrays: what is exported.

Its layout is fixed before there are patients. The tokens of every patient are padded to the same places on
the flat axis, and segments of length 0 say what is absent, so the ops are those of the model, on segments as
they are made of padded tensors. The concepts, the same for every patient, are constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustmdiff.diagnosis.abstention import Abstention
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.diagnosis.sets import ConformalSets
from robustmdiff.diagnosis.views import fullest
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.modalities import summaries
from robustmdiff.explanation.acquisition import spread
from robustmdiff.export.precision import LayersIn
from robustmdiff.export.sampler import SAMPLERS, drawing, usual
from robustmdiff.forecast.gaussian import Noise
from robustmdiff.refusal import Refusal


class DiagnosisGraph(nn.Module):
    """Arrays in, arrays out; in evaluation mode, without gradients.

    In, for each modality of the task (n >= 1 observations, of which none need be anybody's):
        NAME.at            int64 [B], which of the observations is the patient's; -1: absent
        NAME.pixels        float32 [n, C, H, W], of an image, in the modality's own unit
        NAME.input_ids     int64 [n, longest] and NAME.lengths int64 [n], of a text
        NAME.value         float32 [n, F] and NAME.present bool [n, F], of values
        NAME.*             of another kind, as its `specs` say
    and, of a model that makes draws:
        noise_u, noise_z   float32, `forecast.gaussian.Noise`: S draws
        noise_steps        float32 [T, S, D], of a model whose second stage is DDPM
        view               bool [B, M], under which they are made: of what training patients had together with
                           what is there, the fullest that lies in it

    Out:
        probability        float32 [B, C]
        in_set             bool [B, C], the classes that cannot be ruled out
        unlike_training    bool [B], of a model that abstains
        findings           float32 [B, F], of a model that knows findings
        draws              float32 [B, S, C], of a model that makes draws
        expected_change    float32 [B], entropy_reduction float32 [B]: what seeing all of the view is expected
                           to do to the diagnosis (`next_test.NextTest`), of a model that makes draws
    """

    K: Tensor
    quantile: Tensor
    mean: Tensor
    whiten: Tensor
    threshold: Tensor

    def __init__(
        self,
        model: RobustMDiff,
        sets: ConformalSets,
        abstention: Abstention | None,
        dtype: torch.dtype = torch.float32,
        sampler: str | None = None,
    ) -> None:
        """dtype    that layers multiply in.
        sampler  how the second stage's chain is written, one of SAMPLERS; unless given, as `usual`.
        """
        super().__init__()
        self.model, self.dtype, self.sampler = model, dtype, sampler
        self.abstains = abstention is not None
        with torch.no_grad():
            self.register_buffer("K", model.embed_concepts())
        sizes = len(model.task.modalities), len(model.task.classes)
        self.register_buffer("quantile", torch.from_numpy(sets.by_size(*sizes)).float())
        if abstention is not None:
            for name in ("mean", "whiten", "threshold"):
                self.register_buffer(name, torch.tensor(getattr(abstention, name)).float())
        self.eval()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with LayersIn(self.dtype):
            return self._diagnose(inputs)

    def _diagnose(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        encoded = self.encode(inputs)
        if self.model.second_stage is None:
            return self.answer(encoded, None)
        forecast = self.model.second_stage.forecast
        with drawing(forecast, SAMPLERS[self.sampler or usual(forecast)]):
            return self.answer(encoded, self.imagine(encoded, inputs))

    def imagine(self, encoded: Encoded, inputs: Mapping[str, Tensor]) -> Tensor:
        """Draws of y under the view, [B, S, F + C]."""
        model = self.model
        assert model.second_stage is not None
        noise = Noise(inputs["noise_u"], inputs["noise_z"], steps=inputs.get("noise_steps"))
        view = fullest(model.views, encoded.m, inputs["view"])
        return model.second_stage.drawn(model, model.seen(encoded), view, noise)

    def answer(self, encoded: Encoded, y: Tensor | None) -> dict[str, Tensor]:
        """The outputs, of what is encoded and the draws."""
        model = self.model
        found = model.answered(encoded, model.answer, None if y is None else model.said_at(y))
        outputs = {"probability": found.probability, "in_set": self._sets(found.probability, encoded.m)}
        if self.abstains:
            outputs["unlike_training"] = self._unlike(model.observe(encoded), encoded.m)
        if found.findings is not None:
            outputs["findings"] = found.findings
        if y is not None:
            assert found.draws is not None
            outputs["draws"] = found.draws.transpose(0, 1)
            outputs |= self._moved(encoded, y)
        return outputs

    def _moved(self, encoded: Encoded, y: Tensor) -> dict[str, Tensor]:
        """From what is seen to the draws y [B, S, F + C]."""
        model, k = self.model, encoded.m.sum(1)
        p = model.probability(model.logits_from(y.transpose(0, 1)), k).transpose(0, 1)
        now = model.probability(model.logits_from(model.condense(model.observe(encoded))), k)
        change, surer = spread(p, now[:, None], model.labels)
        return {"expected_change": change, "entropy_reduction": surer}

    def encode(self, inputs: Mapping[str, Tensor]) -> Encoded:
        """With its latent."""
        model, tokens, lengths = self.model, [], []
        for modality in model.task.modalities:
            encoder: Any = model.encoders.encoders[modality.name]
            own = inputs_of(inputs, modality.name)
            x, length = encoder.padded(encoder.enter(own))
            at = own["at"].clamp(min=0)
            tokens.append(x[at])  # [B, longest, d_h]
            lengths.append(length[at] * (own["at"] >= 0))
        flat, segments = torch.cat(tokens, 1), _segments(tokens, lengths)
        evidence = torch.stack(
            [self._evidence(*each) for each in zip(tokens, lengths, model.evidence.b, strict=True)], dim=1
        )
        everything = flat.flatten(0, 1)
        encoded = Encoded(everything, segments, summaries(everything, segments), evidence, self.K)
        return model.observed(encoded)

    def _evidence(self, tokens: Tensor, lengths: Tensor, b: Tensor) -> Tensor:
        """`Evidence.forward` of one modality, tokens [B, longest, d_h] -> [B, F]."""
        a, value = self.model.evidence.said(tokens, self.K[self.model.sign_rows])
        there = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        weight = a.masked_fill(~there[..., None], -1e4).softmax(1)  # of an absent one it means nothing
        return (weight * value).sum(1) + b

    def _sets(self, p: Tensor, m: Tensor) -> Tensor:
        """`ConformalSets.sets`."""
        sets = 1 - p <= self.quantile[m.sum(1)]
        if not self.model.labels.exclusive:
            return sets
        return sets | (torch.arange(p.shape[1], device=p.device) == p.argmax(1, keepdim=True))

    def _unlike(self, x: Tensor, m: Tensor) -> Tensor:
        """`Abstention.flag`."""
        k = m.sum(1)
        distance = ((x - self.mean[k]) @ self.whiten).square().sum(1).sqrt()
        return (distance > self.threshold[k]) | (k == 0)


def inputs_of(inputs: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those of one modality, by what follows its name."""
    return {key[len(name) + 1 :]: x for key, x in inputs.items() if key.rpartition(".")[0] == name}


def check_exportable(model: DiagnosisModel) -> RobustMDiff:
    """The same model; Refusal for one that a graph cannot be made of."""
    if not isinstance(model, RobustMDiff):
        raise Refusal(f"export: the model is a {type(model).__name__}, expected RobustMDiff")
    if model.denoiser is not None:
        raise Refusal("export: the model has a jointly trained denoiser, expected a second stage, or none")
    for name in model.encoders.own:
        raise Refusal(f"export: the encoder of {name!r} is of your own, expected one that is built in")
    return model


def _segments(tokens: list[Tensor], lengths: list[Tensor]) -> Tensor:
    """int32 [B, M, 2] on the flat axis of patients whose modalities stand one behind the other."""
    sizes = [x.shape[1] for x in tokens]
    first = torch.arange(tokens[0].shape[0], device=tokens[0].device) * sum(sizes)
    starts = [first + sum(sizes[:i]) for i in range(len(sizes))]
    return torch.stack([torch.stack(starts, 1), torch.stack(lengths, 1)], dim=-1).to(torch.int32)
