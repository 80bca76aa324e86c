"""What is to be run: a YAML file as configs/results.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustmdiff.experiment.studies import Source
from robustmdiff.experiment.tuning import TRIALS
from robustmdiff.models import BY_NAME
from robustmdiff.refusal import Refusal
from robustmdiff.training.config import TrainConfig, make_config


class StudyPlan(BaseModel):
    """A data set with its split, and the configuration that trials and runs start from.

    data, root, ontology, options  as of `experiment.studies.Source`; a root is relative to the repository
    config                         of `training.config.TrainConfig`, what is not the default
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    root: str | None = None
    ontology: str = "icd10cm"
    options: dict[str, Any] = {}
    config: dict[str, Any] = {}

    def source(self) -> Source:
        root = None if self.root is None else str(Path(self.root).resolve())
        return Source(self.data, root, self.ontology, self.options)

    def start(self, seed: int) -> TrainConfig:
        return make_config({**self.config, "seed": seed}, "config")


class Plan(BaseModel):
    """methods whose names `robustmdiff.models` knows; seeds of training, for the run of each method with the
    best of its `trials`; replicates of the bootstrap."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int = Field(TRIALS, ge=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    replicates: int = Field(1000, ge=10)
    methods: tuple[str, ...] = BY_NAME
    studies: dict[str, StudyPlan] = Field(min_length=1)


def read_plan(path: Path) -> Plan:
    """Raises Refusal for a file that is none."""
    try:
        plan = Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise Refusal(f"{path}: is no plan ({' '.join(str(error).split())})") from None
    unknown = sorted(set(plan.methods) - set(BY_NAME))
    if unknown or plan.methods[0] != BY_NAME[0]:
        raise Refusal(
            f"{path}: methods are {', '.join(plan.methods)}, expected {BY_NAME[0]} and then some of "
            f"{', '.join(BY_NAME[1:])}"
        )
    return plan
