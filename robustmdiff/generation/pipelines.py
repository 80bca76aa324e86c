"""Generation as pipelines of diffusers: one for each command, all of one generator.

    generate = GenerationPipeline.from_pretrained("runs/generator/pipeline")
    translate = TranslationPipeline(**generate.components)

diffusers is an extra, `pip install robustmdiff[diffusers]`; nothing else imports this module.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.utils import BaseOutput

from robustmdiff.data.patient import Observation, Patient
from robustmdiff.data.pictures.write import to_png
from robustmdiff.generation.medm2g import Made, MedM2G
from robustmdiff.generation.multi_flow import STEPS
from robustmdiff.generation.pretrained import load_generator, save_generator
from robustmdiff.refusal import Refusal

OUTPUTS = ("np", "pil")
Given = Patient | Mapping[str, Observation | None]


class Generator(ModelMixin):
    """A `MedM2G` as diffusers saves and loads a component: a folder of `save_generator`."""

    def __init__(self, model: MedM2G) -> None:
        super().__init__()
        self.model = model.eval()

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        save_generator(self.model, save_directory)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, torch_dtype: torch.dtype | None = None, **_: Any) -> Self:
        """Refusal for a folder that holds no generator, and for another type of numbers than float32."""
        if torch_dtype not in (None, torch.float32):
            raise Refusal(f"torch_dtype is {torch_dtype}, expected torch.float32: nothing else was measured")
        return cls(load_generator(folder))


@dataclass
class GenerationOutput(BaseOutput):
    """One for each patient.

    images  by modality, the draws: float32 [C, H, W] in the modality's unit ("np"), or 16-bit grey pictures
            with channels side by side ("pil")
    texts   by modality, the draws
    how     by modality, in words
    """

    images: list[dict[str, list[Any]]]
    texts: list[dict[str, list[str]]]
    how: list[dict[str, str]]


class _Pipeline(DiffusionPipeline):
    medm2g: Generator

    def __init__(self, medm2g: Generator) -> None:
        super().__init__()
        self.register_modules(medm2g=medm2g)  # type: ignore[attr-defined]

    @classmethod
    def of(cls, model: MedM2G) -> Self:
        """The pipeline of a generator that was trained or loaded elsewhere."""
        return cls(Generator(model))

    @property
    def model(self) -> MedM2G:
        return self.medm2g.model

    def _patients(self, given: Given | Sequence[Given]) -> list[Patient]:
        several = [given] if isinstance(given, Patient | Mapping) else list(given)
        return [
            one if isinstance(one, Patient) else Patient(f"{i}", dict(one)) for i, one in enumerate(several)
        ]

    def _output(self, made: Sequence[Made], output_type: str) -> GenerationOutput:
        if output_type not in OUTPUTS:
            raise Refusal(f"output_type is {output_type!r}, expected one of {', '.join(OUTPUTS)}")
        output = GenerationOutput([], [], [])
        for one in made:
            is_text = {name: isinstance(draws[0], str) for name, draws in one.made.items()}
            output.images.append(
                {
                    name: [self._image(name, x, output_type) for x in draws]
                    for name, draws in one.made.items()
                    if not is_text[name]
                }
            )
            output.texts.append({name: list(map(str, one.made[name])) for name in one.made if is_text[name]})
            output.how.append(dict(one.how))
        return output

    def _image(self, name: str, image: Any, output_type: str) -> Any:
        if output_type == "np":
            return image
        from PIL import Image

        return Image.open(io.BytesIO(to_png(image, self.model.task.modality(name), {})))


class GenerationPipeline(_Pipeline):
    """Any modalities from any others: a report from an X-ray, an X-ray from a text, several together, from
    nothing (`robustmdiff generate`)."""

    @torch.no_grad()
    def __call__(
        self,
        given: Given | Sequence[Given],
        to: Sequence[str],
        *,
        num_inference_steps: int = STEPS,
        guidance_scale: float = 1.0,
        num_draws: int = 1,
        votes: int = 1,
        generator: torch.Generator | None = None,
        output_type: str = "np",
    ) -> GenerationOutput:
        """given: a patient, or its observations by modality ({"text": "fever"}); or several. The other
        arguments as of `MedM2G.generate`; generator: whose next number is the seed."""
        made = self.model.generate(
            self._patients(given),
            to,
            draws=num_draws,
            guidance=guidance_scale,
            steps=num_inference_steps,
            votes=votes,
            seed=_seed(generator),
        )
        return self._output(made, output_type)


class TranslationPipeline(_Pipeline):
    """An image from images of its frame: a missing contrast of MRI, MRI from CT and back
    (`robustmdiff translate`)."""

    @torch.no_grad()
    def __call__(
        self,
        given: Given | Sequence[Given],
        to: Sequence[str],
        *,
        num_inference_steps: int = STEPS,
        num_draws: int = 1,
        generator: torch.Generator | None = None,
        output_type: str = "np",
    ) -> GenerationOutput:
        """As of `GenerationPipeline`. Refusal for a target of whose frame a patient has nothing."""
        patients = self._patients(given)
        for patient in patients:
            self.model.check_sources(patient, to)
        made = self.model.generate(
            patients, to, draws=num_draws, steps=num_inference_steps, seed=_seed(generator)
        )
        return self._output(made, output_type)


class CompletionPipeline(_Pipeline):
    """Whatever each patient lacks (`robustmdiff complete`)."""

    @torch.no_grad()
    def __call__(
        self,
        given: Given | Sequence[Given],
        *,
        num_inference_steps: int = STEPS,
        guidance_scale: float = 1.0,
        num_draws: int = 1,
        generator: torch.Generator | None = None,
        output_type: str = "np",
    ) -> GenerationOutput:
        """As of `GenerationPipeline`."""
        how: dict[str, Any] = {
            "draws": num_draws,
            "guidance": guidance_scale,
            "steps": num_inference_steps,
            "seed": _seed(generator),
        }
        made = [self.model.complete(patient, **how) for patient in self._patients(given)]
        return self._output(made, output_type)


def _seed(generator: torch.Generator | None) -> int:
    return int(torch.randint(2**31, (), generator=generator))
