"""One model that aligns, reads and generates texts and images: whatever a patient has in, what is asked out.

A re-implementation of the published description of MedM2G (Zhan et al. 2024); what is a reconstruction is
said in docs/generation.md.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from robustmdiff.alignment.prompts import PromptEncoders
from robustmdiff.data.patient import Observation, Patient
from robustmdiff.data.task import Task
from robustmdiff.generation.detail import Detail
from robustmdiff.generation.latents.latent import ImageLatent
from robustmdiff.generation.latents.text import TextLatent
from robustmdiff.generation.multi_flow import STEPS, MultiFlow
from robustmdiff.generation.observed import as_observed, encodable, frame_of, without
from robustmdiff.generation.translation import Draft, Translation
from robustmdiff.ops import philox_key
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import unknown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

AT_ONCE = 512  # draws, as long as memory lasts
VOTES = 16  # latents of a report, unless asked otherwise


class Made(NamedTuple):
    """What was generated for one patient.

    patient  its id
    given    the modalities that it rests on
    made     by modality: so many draws, each float32 [C, H, W] in the modality's unit, or a text
    how      by modality, in words
    """

    patient: str
    given: tuple[str, ...]
    made: Mapping[str, list[Observation]]
    how: Mapping[str, str]


class MedM2G(nn.Module):
    """Aligned prompts, a latent and a flow of each modality, and translations between images of one frame.

    task     modalities that may be given
    prompts  their encoders, aligned; not trained any more
    gists    a vector latent by modality, for each that can be generated: `TextLatent` of a text
    grids    a grid latent of each image among them
    frames   groups of images whose pixels show the same place: each can be translated from the others
    process  of the flows of gists, as of `MultiFlow`
    """

    def __init__(
        self,
        task: Task,
        prompts: PromptEncoders,
        gists: Mapping[str, ImageLatent | TextLatent],
        grids: Mapping[str, ImageLatent],
        frames: Sequence[Sequence[str]] = (),
        tokenizer: Tokenizer | None = None,
        process: str = "straight",
    ) -> None:
        super().__init__()
        self.task, self.tokenizer = task, tokenizer
        self.prompts = prompts.requires_grad_(False)
        self.gists, self.grids = nn.ModuleDict(gists), nn.ModuleDict(grids)
        self.frames = tuple(map(tuple, frames))
        self.flows = MultiFlow(
            task, {name: latent.shape for name, latent in gists.items()}, prompts.d, process
        )
        self.details = nn.ModuleDict(
            {name: Detail(cast(ImageLatent, gists[name]), grid) for name, grid in grids.items()}
        )
        self.translations = nn.ModuleList(
            Translation(Draft({name: grids[name] for name in frame}, frame)) for frame in self.frames
        )

    def gist(self, name: str) -> ImageLatent | TextLatent:
        return cast(ImageLatent | TextLatent, self.gists[name])

    def detail(self, name: str) -> Detail:
        return cast(Detail, self.details[name])

    def translated(self) -> list[tuple[tuple[str, ...], Translation]]:
        """Each frame, and what translates in it."""
        return list(zip(self.frames, cast(Iterable[Translation], self.translations), strict=True))

    @property
    def device(self) -> torch.device:
        return next(self.flows.parameters()).device

    def translation_of(self, name: str) -> Translation | None:
        """The one that makes this modality, if any."""
        return next((translation for frame, translation in self.translated() if name in frame), None)

    def generate(
        self,
        patients: Sequence[Patient],
        to: Sequence[str],
        *,
        draws: int = 1,
        guidance: float = 1.0,
        steps: int = STEPS,
        sampler: str | None = None,
        votes: int = 1,
        seed: int = 0,
    ) -> list[Made]:
        """The modalities `to` of each patient, from all others that it has; what it has of `to` is not read.

        draws     of each, as the model's uncertainty has them
        guidance  how strongly prompts are followed: 0 not at all, 1 as learned (`MultiFlow.sample`)
        steps     of each sampler
        sampler   of the flows of gists, as of `MultiFlow.sample`
        votes     a text is what so many draws of it say on average; each is then drawn apart from images
        seed      of the noise. A patient's draws depend on it and on the patient's id alone.

        An image is translated from images of its frame where there are any, and else drawn from the prompts,
        together with whatever else is. Raises Refusal for a modality that cannot be generated, DataError for
        a patient that is not of the task. Where memory ends, fewer at once are tried, with a warning.
        """
        self._check(to, draws, steps, votes, guidance)
        patients = [without(patient, to) for patient in patients]
        made: list[dict[str, list[Observation]]] = [{} for _ in patients]
        how: list[dict[str, str]] = [{} for _ in patients]
        key = philox_key(seed, device=self.device)
        sampling: dict[str, Any] = {"guidance": guidance, "steps": steps, "sampler": sampler}
        drawn_from = "drawn from the prompts"
        left: list[tuple[str, ...]] = []
        for patient in patients:
            left.append(tuple(name for name in to if not self.sources(patient, name)))
        for name in to:
            rows = [i for i, names in enumerate(left) if name not in names]

            def translate(some: list[int], name: str = name) -> list[list[Observation]]:
                return self._translate([patients[i] for i in some], name, draws, steps, key)

            for i, images in zip(rows, in_parts(translate, rows, draws), strict=True):
                made[i][name] = images
                how[i][name] = f"translated from {', '.join(self.sources(patients[i], name))}"
        alike = [(names, self._readable(patient)) for names, patient in zip(left, patients, strict=True)]
        for (names, _), group in groupby(
            sorted(range(len(patients)), key=alike.__getitem__), alike.__getitem__
        ):
            rows = list(group)
            for together in self._together(names, votes):

                def draw(some: list[int], together: tuple[str, ...] = together) -> list[dict[str, Any]]:
                    chosen = [patients[i] for i in some]
                    return self._draw(chosen, together, draws, votes, key, sampling)

                for i, drawn in zip(rows, in_parts(draw, rows, draws * votes), strict=True):
                    made[i].update(drawn)
                    given = ", ".join(_given(self.task, patients[i])) or "nothing"
                    how[i].update(dict.fromkeys(together, f"{drawn_from} {given}"))
        return [
            Made(
                patient.id,
                _given(self.task, patient),
                {name: made[i][name] for name in to},
                {name: how[i][name] for name in to},
            )
            for i, patient in enumerate(patients)
        ]

    def complete(self, patient: Patient, **how: Any) -> Made:
        """Whatever the patient lacks of what can be generated; `how` as in `generate`."""
        lacking = [name for name in self.gists if not patient.has(name)]
        if not lacking:
            return Made(patient.id, _given(self.task, patient), {}, {})
        return self.generate([patient], lacking, **how)[0]

    def sources(self, patient: Patient, name: str) -> list[str]:
        """What the patient has of the frame of a modality."""
        frame = next((frame for frame in self.frames if name in frame), ())
        return [other for other in frame if other != name and patient.has(other)]

    def check_sources(self, patient: Patient, to: Sequence[str]) -> None:
        """Refusal where one of the modalities `to` would have to be drawn from prompts alone."""
        for name in to:
            if not self.sources(patient, name):
                raise Refusal(f"to is {name!r}, expected a modality in whose frame an image is given")

    def unread(self, patient: Patient) -> Iterator[str]:
        """What prompts do not read of a patient: of each text of which the end is cut off, and of each in
        which no word is known, a sentence."""
        if self.tokenizer is None:
            return
        self.tokenizer.encode_special_tokens = True
        longest, nothing = self.prompts.config.max_tokens, self.tokenizer.token_to_id("[UNK]")
        for name in (modality.name for modality in self.task.of_kind("text")):
            text = patient.modalities.get(name)
            if name not in self.prompts.names or not isinstance(text, str) or not text.strip():
                continue
            read = self.tokenizer.encode(text, add_special_tokens=False)
            if len(read.ids) > longest - 2:
                end = read.offsets[longest - 3][1]
                yield (
                    f"modality {name!r}: {len(read.ids)} tokens, read up to character {end} of {len(text)}, "
                    f"'... {text[max(0, end - 20) : end]}'"
                )
            if read.ids and all(id == nothing for id in read.ids):
                yield f"modality {name!r}: no word of it is known"

    def _readable(self, patient: Patient) -> tuple[str, ...]:
        """What the patient has that flows read as they read one another."""
        return tuple(name for name in self.gists if patient.has(name))

    def _together(self, names: tuple[str, ...], votes: int) -> list[tuple[str, ...]]:
        """What is drawn in one go."""
        apart = [(n,) for n in names if votes > 1 and isinstance(self.gist(n), TextLatent)]
        rest = tuple(n for n in names if (n,) not in apart)
        return [*([rest] if rest else []), *apart]

    def _translate(
        self, patients: list[Patient], name: str, draws: int, steps: int, key: Tensor
    ) -> list[list[Observation]]:
        translation = self.translation_of(name)
        assert translation is not None
        frame = [self.task.modality(series) for series in translation.draft.series]
        images, present = frame_of(patients, frame, [name])
        x = translation.sample(
            images, name, present, draws=draws, steps=steps, key=key, row_ids=self._ids(patients, 1)
        )
        return [list(each) for each in as_observed(x, self.task.modality(name))]

    def _draw(
        self,
        patients: list[Patient],
        names: tuple[str, ...],
        draws: int,
        votes: int,
        key: Tensor,
        how: dict[str, Any],
    ) -> list[dict[str, list[Observation]]]:
        for patient in patients:
            for sentence in self.unread(patient):
                warnings.warn(f"{patient}, {sentence}", stacklevel=4)
        voting = votes if votes > 1 and isinstance(self.gist(names[0]), TextLatent) else 1
        each = draws * voting
        h, m = (
            x.to(self.device).repeat_interleave(each, dim=0)
            for x in self.prompts.embed(patients, self.tokenizer)
        )
        ids = self._ids(patients, each)
        known = {}
        for name in self._readable(patients[0]):
            clean = self.gist(name).encode(encodable(patients, self.task.modality(name)))
            known[name] = clean.to(self.device).repeat_interleave(each, dim=0)
        z = self.flows.sample(names, h, m, key=key, row_ids=ids, known=known, **how)
        made: list[dict[str, list[Observation]]] = [{} for _ in patients]
        for name in names:
            gist = self.gist(name)
            found: Sequence[Any]
            if isinstance(gist, TextLatent):
                found = gist.write(gist.scores(z[name]).unflatten(0, (-1, voting)).mean(1))
            else:
                x = self.detail(name).sample(z[name], key=key, row_ids=ids)
                found = list(as_observed(x, self.task.modality(name)))
            for i in range(len(patients)):
                made[i][name] = list(found[i * draws : (i + 1) * draws])
        return made

    def _ids(self, patients: Sequence[Patient], draws: int) -> Tensor:
        """int64 [n draws], whose noise it is."""
        own = torch.tensor([zlib.crc32(patient.id.encode()) for patient in patients], device=self.device)
        apart = torch.arange(draws, device=self.device) * 0x9E3779B1
        return ((own[:, None] + apart) % 2**32).flatten()

    def _check(self, to: Sequence[str], draws: int, steps: int, votes: int, guidance: float) -> None:
        if not to:
            raise Refusal(f"to is empty, expected at least one of {', '.join(self.gists)}")
        for name in to:
            if name not in self.gists:
                raise Refusal(f"to: {unknown('modality', name, list(self.gists))}")
        for what, value in (("draws", draws), ("steps", steps), ("votes", votes)):
            if value < 1:
                raise Refusal(f"{what} is {value}, expected at least 1")
        if not 0 <= guidance < 100:
            raise Refusal(f"guidance is {guidance}, expected a number from 0 to below 100")


def _given(task: Task, patient: Patient) -> tuple[str, ...]:
    return tuple(name for name in task.modality_names if patient.has(name))


def in_parts(make: Callable[[list[int]], list[Any]], rows: list[int], draws: int = 1) -> list[Any]:
    """What `make` gives of the rows, of each so many draws: AT_ONCE of these at a time, or as many rows as
    memory is enough for."""
    made: list[Any] = []
    size = max(1, AT_ONCE // draws)
    while len(made) < len(rows):
        some = rows[len(made) : len(made) + size]
        try:
            made += make(some)
        except torch.OutOfMemoryError:
            if len(some) == 1:
                raise
            size = len(some) // 2
            warnings.warn(f"memory is not enough for {len(some)} at once: trying {size}", stacklevel=4)
    return made
