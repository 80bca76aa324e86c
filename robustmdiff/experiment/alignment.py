"""How well aligned encoders find a patient's one modality by another, also those that were never paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robustmdiff.alignment.chain import align
from robustmdiff.alignment.config import AlignConfig
from robustmdiff.alignment.link import PAIRS, Link, links_of
from robustmdiff.alignment.prompts import PromptEncoders
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.evaluation.retrieval import retrieval
from robustmdiff.experiment.fit import tokenizer_of
from robustmdiff.experiment.studies import Study
from robustmdiff.refusal import Refusal
from robustmdiff.training.config import TrainConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def retrieval_table(
    model: PromptEncoders, links: Sequence[Link], patients: Sequence[Patient], tokenizer: Tokenizer | None
) -> list[dict[str, Any]]:
    """A row for each pair of aligned modalities that at least two of the patients have both of: how many
    links lead from one to the other (1: it was trained), mean percentile rank, R@1 and R@10 of `retrieval`,
    both directions, chance beside."""
    h, m = model.embed(patients, tokenizer)
    names = model.task.modality_names
    rows = []
    for a, b in combinations(model.names, 2):
        i, j = names.index(a), names.index(b)
        both = m[:, i] & m[:, j]
        if int(both.sum()) < 2:
            continue
        found = retrieval(h[both, i], h[both, j])
        rows.append(
            {
                "pair": f"{a} - {b}",
                "links": distance(links, a, b),
                "rank": found.rank,
                "R@1": found.at_1,
                "R@10": found.at_10,
                "chance R@1": found.chance.at_1,
                "chance R@10": found.chance.at_10,
                "patients": found.patients,
            }
        )
    return rows


def growing_table(
    task: Task,
    links: Sequence[Link],
    patients: Mapping[str, Sequence[Patient]],
    config: AlignConfig,
    out_dir: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    resume: bool = False,
) -> list[dict[str, Any]]:
    """The rows of `retrieval_table` on patients["test"] after each link that patients["train"] were aligned
    along, with the number of modalities aligned: what one link more gives pairs that no link has."""
    rows: list[dict[str, Any]] = []
    model = None
    for k, link in enumerate(links):
        how: dict[str, Any] = {"known": model, "tokenizer": tokenizer, "resume": resume}
        model = align(task, [link], patients["train"], config, out_dir, **how)
        found = retrieval_table(model, links[: k + 1], patients["test"], tokenizer)
        rows += [{"modalities": len(model.names), **row} for row in found]
    return rows


def align_study(
    study: Study,
    config: TrainConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    device: torch.device | None = None,
    **settings: Any,
) -> Path:
    """Align encoders of the sizes of a diagnosis model on the training patients of its study, along
    `links_of` them; returns the folder that `train_run(aligned=...)` starts from.

    settings  of `AlignConfig`, instead of its defaults and of what `config` says of seed, epochs and batches
    Raises Refusal for a study of which no two modalities can be linked, else as `align`.
    """
    patients = study.patients["train"]
    links = links_of(study.task, patients)
    if not links:
        names = ", ".join(study.task.modality_names)
        raise Refusal(f"align: no {PAIRS} training patients have two of {names}, expected some who do")
    tokenizer, sizes = tokenizer_of(study, config.model)
    same = {"seed": config.seed, "epochs": config.epochs, "batch_size": config.batch_size}
    aligning = AlignConfig.model_validate({"model": sizes.of_encoders} | same | settings)
    how: dict[str, Any] = {"tokenizer": tokenizer, "resume": resume, "device": device}
    align(study.task, links, patients, aligning, folder, **how)
    return Path(folder) / "links" / str(links[-1]) / "model"


def distance(links: Sequence[Link], a: str, b: str) -> int:
    """How many links lead from a to b: 1 for a pair that was trained. ValueError where none do."""
    seen, reached, steps = {a}, {a}, 0
    while b not in seen:
        reached = {end for link in links for end in link if set(link) & reached} - seen
        if not reached:
            raise ValueError(f"distance: {b!r} is not linked to {a!r} by {', '.join(map(str, links))}")
        seen, steps = seen | reached, steps + 1
    return steps
