"""How well one modality finds the same patient's other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from robustmdiff.data.patient import Patient
from robustmdiff.evaluation.retrieval import retrieval
from robustmdiff.experiment.generated.rows import Row, alone
from robustmdiff.generation.medm2g import MedM2G


def retrievals(model: MedM2G, patients: Sequence[Patient]) -> Iterator[Row]:
    """By the aligned prompts, of each pair of modalities; a link of the chain or not."""
    h, m = model.prompts.embed(patients, model.tokenizer)
    names = model.task.modality_names
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            rows = (m[:, i] & m[:, j]).nonzero()[:, 0]
            if len(rows) < 2:
                continue
            found = retrieval(h[rows, i], h[rows, j])
            task = f"{b} - {a}"
            yield Row(task, "prompts", "mean percentile rank", alone(found.rank), len(rows))
            yield Row(task, "prompts", "R@10", alone(found.at_10), len(rows))
