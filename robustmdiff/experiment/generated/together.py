"""An image and a report made together: is the one about the other?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from robustmdiff.data.patient import Patient
from robustmdiff.experiment.generated.cohort import Judged, having_only
from robustmdiff.experiment.generated.rows import Row
from robustmdiff.generation.latents.text import TextLatent


def made_together(judged: Judged) -> Iterator[Row]:
    """AUROC of what the report states, on its image: from nothing, and from another image that the patient
    has. Made apart, they share the prompt alone; real pairs through the latents are the ceiling."""
    name = judged.name
    other = "ct" if name == "xray" else "xray"
    nobody = [Patient(p.id, {}) for p in judged.patients]
    for prompt, patients in (("nothing", nobody), (other, having_only(judged.patients, other))):
        task = f"{prompt} -> {name}, text"
        yield _row(judged, task, "together", patients, [[name, "text"]])
        yield _row(judged, task, "apart", patients, [[name], ["text"]])
    task = f"nothing -> {name}, text"
    yield judged.agreement(task, "real pairs", judged.real, judged.asked)
    gist, text = judged.model.detail(name).gist, cast(TextLatent, judged.model.gist("text"))
    reports = [str(p.modalities["text"]) for p in judged.patients]
    seen = gist.decode(gist.encode(judged.real)).clamp(-1, 1)
    read = judged.stated(text.decode(text.encode(reports)))
    yield judged.agreement(task, "real pairs, through the latents", seen, read)


def _row(
    judged: Judged, task: str, method: str, patients: Sequence[Patient], calls: Sequence[Sequence[str]]
) -> Row:
    """calls: what is made in one go."""
    made = [judged.model.generate(patients, to) for to in calls]
    images = judged.pixels([one.made[judged.name][0] for one in made[0]])
    asked = judged.stated([str(one.made["text"][0]) for one in made[-1]])
    return judged.agreement(task, method, images, asked)
