"""The built-in cohort: synthetic patients of whom the best possible diagnosis is known."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from robustmdiff.data.cohort import missingness, panel
from robustmdiff.data.cohort.concepts import concept_table, frequency_bands
from robustmdiff.data.cohort.config import CohortConfig
from robustmdiff.data.cohort.draw import SITES, draw, states_of, stream
from robustmdiff.data.cohort.imaging import CONTRASTS, CT_LEVELS
from robustmdiff.data.cohort.missingness import Mechanism
from robustmdiff.data.cohort.posterior import posterior, reading_evidence
from robustmdiff.data.cohort.render import Rendering, names, rendering, views
from robustmdiff.data.cohort.table import DISEASES, FINDINGS, MODALITIES, RARE, DiseaseTable, disease_table
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import Observation, Patient
from robustmdiff.data.task import Task
from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.refusal import Refusal

WINDOWS = {"xray": (0.0, 1.0), "xray_lateral": (0.0, 1.0), "ct": (-1000.0, 300.0), "mri": (0.0, 0.9)}
CHANNELS = {"ct": tuple(f"{20 * z:+.0f} cm" for z in CT_LEVELS), "mri": tuple(CONTRASTS)}
COSTS = {
    "xray": 1.0,
    "ct": 6.0,
    "mri": 10.0,
    "text": 1.0,
    "structured": 2.0,
    "genomic": 8.0,
    "xray_lateral": 1.0,
}


def make_cohort(config: CohortConfig | None = None, *, cache: str | os.PathLike[str] | None = None) -> Cohort:
    """The cohort of a config. Images are rendered when the first patient is asked for, and kept
    under `cache` (default $RMD_CACHE, else ~/.cache/robustmdiff)."""
    return Cohort(config or CohortConfig(), cache)


class Cohort:
    """n patients with M modalities, F findings, C classes.

    patients   Sequence[Patient], made when indexed.
    task       what the modalities are, the classes and their prevalence.
    table      the true disease table; a model is to be given `concepts()` instead.
    drawn      labels, findings, readings, site, age, weights (see `draw.Draw`).
    presence   bool [n, M], modalities the patients have, in the task's order.
    cells      bool [n, M, F], readings not hidden by a missing value.
    degraded   bool [n, M], modalities rendered in poor quality.
    """

    def __init__(self, config: CohortConfig, cache: str | os.PathLike[str] | None = None):
        self.config, self._cache = config, cache
        self.table: DiseaseTable = disease_table(config.table_seed)
        self.states = states_of(self.table, config.multilabel, config.correlation)
        self.drawn = draw(config, self.table)
        self.task = _task(self.table, self.states.labels, np.exp(self.states.log_prior), config)
        n, (M, F) = len(self), self.table.sensitivity.shape
        p = missingness.missing_probability(self.mechanism(), self.drawn)
        self.presence = self._with_lateral(stream(config, "presence").random((n, M)) >= p[:, :M])
        self._panels = np.array(
            [self.task.modality(name).kind == "values" for name in MODALITIES]
        )  # bool [M]
        hidden = stream(config, "cells").random((n, M, F)) < p[:, M, None, None]
        self.cells = self.table.visible & ~(self._panels[:, None] & hidden)
        self.degraded = self._with_lateral(stream(config, "degraded").random((n, M)) < config.degraded)
        self.patients = Patients(self)

    def __len__(self) -> int:
        return len(self.drawn.labels)

    @property
    def labels(self) -> np.ndarray:
        """bool [n, C]."""
        return self.drawn.labels

    @property
    def weights(self) -> np.ndarray:
        """float64 [n], mean 1: importance of each patient at the true prevalence."""
        return self.drawn.weights

    def mechanism(self, kind: str | None = None, rate: float = 0.0) -> Mechanism:
        """How modalities go missing in this population; by default the cohort's own way."""
        if kind is None:
            return Mechanism(self.config.missingness, self.config.rate, self.config.cell_rate, self._severity)
        return Mechanism(kind, rate, 0.0, self._severity)

    def mask(self, kind: str, rate: float, seed: int, *, keep_one: bool = False) -> np.ndarray:
        """A mask bool [n, M] over the patients, True = kept, to test a model under.

        kind, rate as in CohortConfig. Modalities that the cohort lacks are drawn like the others:
        combine with `presence`. keep_one leaves a patient who would have nothing one modality,
        chosen at random from those the cohort has."""
        mechanism = self.mechanism(kind, rate)
        M = len(MODALITIES)
        own = self.presence[:, :M] if keep_one else None
        return self._with_lateral(missingness.draw(mechanism, self.drawn, seed, own))

    def _with_lateral(self, mask: np.ndarray) -> np.ndarray:
        """Of the task's modalities, from that of MODALITIES: both views of an X-ray are taken together."""
        xray = MODALITIES.index("xray")
        return np.column_stack([mask, mask[:, xray]]) if self.config.lateral else mask

    def posterior(
        self,
        presence: ArrayLike | None = None,
        index: Sequence[int] | np.ndarray | None = None,
        *,
        mechanism: Mechanism | None = None,
        correlation: float | None = None,
    ) -> np.ndarray:
        """P(class | readings of the modalities present): float64 [n, C], the ceiling.

        presence  bool [n, M], row k for patient index[k]; default all that the patients have.
                  What the cohort itself lacks is never read.
        index     which patients; default all, in order.
        mechanism by which `presence` was drawn: under MAR and MNAR the mask, the site and the age
                  are evidence, too. By default only the cohort's own missingness is.
        correlation that is assumed between findings; by default the cohort's own. With 0 it is what a
                  disease table can know at best: its findings are independent given the disease.

        Raises Refusal where the config is not `exact`.
        """
        return self.posterior_from(
            self.evidence, presence, index, mechanism=mechanism, correlation=correlation
        )

    def posterior_from(
        self,
        evidence: np.ndarray,
        presence: ArrayLike | None = None,
        index: Sequence[int] | np.ndarray | None = None,
        *,
        mechanism: Mechanism | None = None,
        correlation: float | None = None,
    ) -> np.ndarray:
        """The same from any evidence [len(cohort), M, F, 2], log P(seen | finding absent, present)."""
        self.check_exact()
        rows = np.arange(len(self)) if index is None else np.asarray(index, dtype=np.int64)
        own = self.presence[rows]
        mask = own if presence is None else np.asarray(presence, dtype=bool)
        if mask.shape != own.shape:
            raise ValueError(
                f"presence has shape {mask.shape}, expected {own.shape} (patients asked for, modalities)"
            )
        seen = (mask & own)[..., None] & self.cells[rows]
        per_finding = np.einsum("nmf,nmfs->nfs", seen.astype(np.float64), evidence[rows])
        log_site = log_mask = None
        if mechanism is None:
            mechanism, mask = self.mechanism(), own
            cells = self._cells(rows)
        else:
            cells = (np.zeros(len(rows)), np.zeros(len(rows)))
        site, age = self.drawn.site[rows], self.drawn.age[rows]
        if mechanism.kind == "mar":
            log_site = missingness.log_site(site, self.states.rare)
        if mechanism.kind == "mnar":
            log_mask = mechanism.log_likelihood(mask, cells, site, age)
        states = self.states
        if correlation is not None:
            states = states_of(self.table, self.config.multilabel, correlation)
        return posterior(states, per_finding, log_site, log_mask)

    def check_exact(self) -> None:
        """Refusal unless each modality shows readings of its own."""
        if not self.config.exact:
            aligned, lateral = self.config.aligned, self.config.lateral
            raise Refusal(
                f"aligned is {aligned} and lateral {lateral}, expected both False: of a cohort in which one "
                "image shows a part of what another does, the best possible diagnosis is not known"
            )

    def _cells(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values missing and measured, [n] each, in the panels that the patients have."""
        shown = self.table.visible & self._panels[:, None] & self.presence[rows][..., None]
        measured = (shown & self.cells[rows]).sum(axis=(1, 2))
        return shown.sum(axis=(1, 2)) - measured, measured

    @cached_property
    def _severity(self) -> np.ndarray:
        return missingness.severity_distribution(self.states)

    @cached_property
    def evidence(self) -> np.ndarray:
        """float64 [n, M, F, 2], log P(reading | finding absent, present)."""
        return reading_evidence(self.table, self.drawn.readings)

    @cached_property
    def rendering(self) -> Rendering:
        return rendering(self.config, self.drawn, self.degraded, self._cache)

    def frequency_bands(self, wrong: float = 0.15, seed: int = 0) -> np.ndarray:
        """The disease table as an ontology would state it: see `concepts.frequency_bands`."""
        return frequency_bands(self.table.frequency, wrong, seed)

    def concepts(self, wrong: float = 0.15, seed: int = 0) -> ConceptTable:
        """Diseases, then findings, with perturbed frequency bands: what a model may know."""
        return concept_table(self.table, self.frequency_bands(wrong, seed))


class Patients(Sequence[Patient]):
    """The patients of a cohort; pixels are read from the cache when a patient is asked for."""

    def __init__(self, cohort: Cohort):
        self._cohort = cohort

    def __len__(self) -> int:
        return len(self._cohort)

    @overload
    def __getitem__(self, i: int) -> Patient: ...
    @overload
    def __getitem__(self, i: slice) -> list[Patient]: ...
    def __getitem__(self, i: int | slice) -> Patient | list[Patient]:
        if isinstance(i, slice):
            return [self._patient(k) for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"patient {i} of {len(self)}")
        return self._patient(int(i) % len(self))

    def __iter__(self) -> Iterator[Patient]:
        return (self._patient(i) for i in range(len(self)))

    def _patient(self, i: int) -> Patient:
        cohort, drawn, config = self._cohort, self._cohort.drawn, self._cohort.config
        return Patient(
            id=f"RMD-{config.table_seed}-{config.seed}-{i:06d}",
            modalities={
                name: self.observe(i, name) if cohort.presence[i, m] else None
                for m, name in enumerate(cohort.task.modality_names)
            },
            labels=dict(zip(cohort.task.classes, drawn.labels[i].tolist(), strict=True)),
            findings=dict(zip(FINDINGS, drawn.findings[i].tolist(), strict=True)),
            source=f"built-in cohort, seed {config.seed}, patient {i}",
            site=SITES[drawn.site[i]],
            age=float(drawn.age[i]),
        )

    def observe(self, i: int, name: str) -> Observation:
        """What was rendered of patient i in one modality, whether or not the patient has it."""
        cohort, record = self._cohort, self._cohort.rendering.records[i]
        if name in cohort.rendering.images:
            return np.array(cohort.rendering.images[name][i], dtype=np.float32)
        if name == "text":
            return str(record["text"])
        cells = cohort.cells[i, MODALITIES.index(name)]
        values: dict[str, float | str] = {}
        if name == "structured":
            values["age"] = float(cohort.drawn.age[i])
            values["sex"] = "female" if cohort.drawn.female[i] else "male"
        values.update({panel.field_name(name, f): v for f, v in record[name].items() if cells[f]})
        return values


def _task(table: DiseaseTable, labels: np.ndarray, prior: np.ndarray, config: CohortConfig) -> Task:
    size = config.image_size
    visible = table.visible[MODALITIES.index("structured")]
    fields = {"structured": panel.structured_fields(visible), "genomic": panel.genomic_fields()}
    images = views(config)
    modalities = []
    for name in names(config):
        if name in images:
            shape = (images[name].channels, size, size)
            channels = CHANNELS.get(name, ())
            modality = Modality(
                name, "image", shape=shape, window=WINDOWS[name], channels=channels, cost=COSTS[name]
            )
        elif name in fields:
            modality = Modality(name, "values", fields=fields[name], cost=COSTS[name])
        else:
            modality = Modality(name, "text", cost=COSTS[name])
        modalities.append(modality)
    classes = tuple(disease.name for disease in DISEASES)
    return Task(
        modalities=tuple(modalities),
        classes=classes,
        prevalence=tuple((prior @ labels).tolist()),
        multilabel=config.multilabel,
        rare=classes[-RARE:],
        findings=FINDINGS,
    )
