"""Central alignment along a chain: link after link, each towards what is aligned already.

Cost grows with the number of links, one less than that of modalities, and never with the pairs of modalities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from robustmdiff.alignment.config import AlignConfig
from robustmdiff.alignment.link import Link, Linked, LinkObjective, LinkPlan
from robustmdiff.alignment.pretrained import save_prompts
from robustmdiff.alignment.prompts import PromptEncoders, alone, check_goes_with
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import unknown
from robustmdiff.training.batches import PackedPatients
from robustmdiff.training.budget import budget
from robustmdiff.training.loop import Loop, claim, make_accelerator
from robustmdiff.training.order import random_key

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def align(
    task: Task,
    links: Sequence[Link],
    patients: Sequence[Patient],
    config: AlignConfig,
    out_dir: str | Path,
    *,
    known: PromptEncoders | None = None,
    tokenizer: Tokenizer | None = None,
    resume: bool = False,
    device: torch.device | None = None,
) -> PromptEncoders:
    """Align the modalities of `links`, in their order, and return all that are aligned, in evaluation mode.

    links   the first aligns two modalities; each further one aligns a modality that is new to one that is
            known, whose encoder stays as it is and is asked once for each patient
    known   encoders that are aligned already: then each link, the first as well, adds a modality to them
    resume  goes on exactly where a run of the same links stopped, between links and inside one

    out_dir/links/A-B holds the `training.loop.Loop` run of a link, and in its folder `model` all encoders
    that were aligned up to it (`load_prompts`), which work without the links that follow.

    Raises Refusal for a modality that the task does not have, for a link neither or both of whose modalities
    are aligned, where fewer than two patients have both, and for several processes, since each would contrast
    its own part of a batch; otherwise what `Loop.run` raises. Seeds global generators, as it does.
    """
    _check(task, links, config, known)
    aligned = known
    for link in links:
        folder = Path(out_dir) / "links" / str(link)
        aligned = _add(aligned, link, task, patients, config, folder, tokenizer, resume, device)
        save_prompts(aligned, folder / "model", tokenizer)
    assert aligned is not None
    return aligned


def _add(
    known: PromptEncoders | None,
    link: Link,
    task: Task,
    patients: Sequence[Patient],
    config: AlignConfig,
    folder: Path,
    tokenizer: Tokenizer | None,
    resume: bool,
    device: torch.device | None,
) -> PromptEncoders:
    """The encoders that are known, and the one, or the first two, that this link adds."""
    new = [name for name in link if known is None or name not in known.names]
    paired = link.paired(patients)
    claim(folder, resume)
    accelerator = make_accelerator(config, folder, device)
    if accelerator.num_processes > 1:
        raise Refusal(f"align: there are {accelerator.num_processes} processes, expected 1")
    target = None
    if known is not None:
        (name,) = set(link) - set(new)
        prompts = known.to(accelerator.device).embed([alone(p, [name]) for p in paired], tokenizer)
        target = prompts.h[:, known.task.modality_names.index(name)]
    own = replace(task, modalities=tuple(m for m in task.modalities if m.name in new))
    collator = Collator(own, tokenizer, config.model.max_tokens)
    packed = PackedPatients([alone(p, new) for p in paired], collator, config.cache_gb)
    length = budget(len(packed), config)
    if known is None:
        length = budget(len(packed), config.model_copy(update={"epochs": config.first * length.epochs}))
    torch.manual_seed(random_key(config.seed, *map(ord, str(link))))
    model = Linked(PromptEncoders(task, config.model, d=config.d, only=new))
    model.prompts.encoders.fit(packed.sample())
    Loop(
        LinkObjective(model, link, config),
        LinkPlan(packed, target, length, config.seed),
        config,
        folder,
        accelerator,
        name=f"link {link}",
        data={
            "task": task.to_json(),
            "patients": f"{len(packed)} patients, digest {_digest(packed.ids)}",
            "known": None if known is None else _digest(known),
        },
        notes=length.notes,
    ).run()
    return model.prompts if known is None else known.joined(model.prompts).eval()


def _digest(of: Sequence[str] | PromptEncoders) -> str:
    found = hashlib.sha256()
    if isinstance(of, PromptEncoders):
        for tensor in of.state_dict().values():
            found.update(tensor.cpu().contiguous().numpy().tobytes())
    else:
        found.update("\n".join(of).encode())
    return found.hexdigest()[:12]


def _check(task: Task, links: Sequence[Link], config: AlignConfig, known: PromptEncoders | None) -> None:
    if not links:
        raise Refusal("align: links are none, expected at least one")
    aligned = set()
    if known is not None:
        check_goes_with(known, task, config.model, config.d)
        aligned = set(known.names)
    for link in links:
        for name in link:
            if name not in task.modality_names:
                raise Refusal(f"link {link}: {unknown('modality', name, task.modality_names)}")
        if link.a == link.b:
            raise Refusal(f"link {link}: its two ends are the same, expected two modalities")
        new = set(link) - aligned
        if aligned and len(new) != 1:
            which = "neither is" if new else "both are"
            raise Refusal(
                f"link {link}: {which} aligned before it, expected one known modality and a new one"
            )
        aligned |= new
