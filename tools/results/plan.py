"""What is to be run: a YAML file as configs/results.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from robustmdiff.experiment.source import Source
from robustmdiff.experiment.tuning import TRIALS
from robustmdiff.models import BY_NAME
from robustmdiff.refusal import Refusal
from robustmdiff.training.config import TrainConfig, make_config


class Variant(BaseModel):
    """One of the methods made otherwise, with the settings of its trials.

    of       the method
    options  of its model, as its `Kind.build` takes them
    aligned  its encoders start from aligned ones, trained on the same patients with these settings of
             `AlignConfig`; none: from random weights
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str
    options: dict[str, Any] = {}
    aligned: dict[str, Any] | None = None


class StudyPlan(BaseModel):
    """A data set with its split, and the configuration that trials and runs start from.

    data, root, ontology, options  as of `experiment.source.Source`; a root is relative to the repository
    config                         of `training.config.TrainConfig`, what is not the default
    methods                        instead of the plan's
    tuned                          another study, whose trials choose the settings; none: trials of its own
    folds, repeats                 a cross-validation by person instead of a split and seeds. Every method is
                                   in it, with the defaults unless it is `tuned`: trials would look at the
                                   patients who are tested.
    trials                         of its own instead of the plan's; 0: the settings are those of `config`
    variants                       an ablation: what else is trained, by its name in the table
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    root: str | None = None
    ontology: str = "icd10cm"
    options: dict[str, Any] = {}
    config: dict[str, Any] = {}
    methods: tuple[str, ...] | None = None
    tuned: str | None = None
    folds: int | None = Field(None, ge=2)
    repeats: int = Field(1, ge=1)
    trials: int | None = Field(None, ge=0)
    variants: dict[str, Variant] = {}

    def source(self) -> Source:
        root = None if self.root is None else str(Path(self.root).resolve())
        return Source(self.data, root, self.ontology, self.options)

    def start(self, seed: int) -> TrainConfig:
        return make_config({**self.config, "seed": seed}, "config")

    @model_validator(mode="after")
    def _methods(self) -> Self:
        if self.methods is not None:
            if self.folds:
                raise ValueError("there are methods and folds, expected one of the two")
            _check_methods(self.methods)
        return self

    @model_validator(mode="after")
    def _variants(self) -> Self:
        if self.variants and self.methods is None:
            raise ValueError("there are variants and no methods, expected methods, some of which they are of")
        for name, variant in self.variants.items():
            if variant.of not in (self.methods or ()):
                raise ValueError(
                    f"{name} is of {variant.of!r}, expected one of {', '.join(self.methods or ())}"
                )
            if name in BY_NAME:
                raise ValueError(f"a variant is called {name!r}, expected another name than a method's")
        if self.trials is not None and (self.tuned or self.folds):
            raise ValueError(f"trials is {self.trials}, expected none beside tuned and folds")
        return self


class Plan(BaseModel):
    """methods whose names `robustmdiff.models` knows; seeds of training, for the run of each method with the
    best of its `trials`; replicates of the bootstrap."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int = Field(TRIALS, ge=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    replicates: int = Field(1000, ge=10)
    methods: tuple[str, ...] = BY_NAME
    studies: dict[str, StudyPlan] = Field(min_length=1)

    @model_validator(mode="after")
    def _studies(self) -> Self:
        _check_methods(self.methods)
        own = [
            name
            for name, study in self.studies.items()
            if not (study.tuned or study.folds or study.trials == 0)
        ]
        for name, study in self.studies.items():
            if study.tuned is not None and study.tuned not in own:
                raise ValueError(f"{name} is tuned by {study.tuned!r}, expected one of {', '.join(own)}")
        return self

    def trials_of(self, study: StudyPlan) -> int:
        return self.trials if study.trials is None else study.trials

    def methods_of(self, study: StudyPlan) -> tuple[str, ...]:
        return self.methods if study.methods is None else study.methods


def read_plan(path: Path) -> Plan:
    """Raises Refusal for a file that is none."""
    try:
        return Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise Refusal(f"{path}: is no plan ({' '.join(str(error).split())})") from None


def _check_methods(methods: Sequence[str]) -> None:
    if set(methods) - set(BY_NAME) or list(methods[:1]) != [BY_NAME[0]]:
        raise ValueError(
            f"methods are {', '.join(methods)}, expected {BY_NAME[0]} and then some of "
            f"{', '.join(BY_NAME[1:])}"
        )
