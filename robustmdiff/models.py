"""The models that can be trained, saved, loaded and compared: the one list of them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from robustmdiff.data.task import Task
    from robustmdiff.diagnosis.contract import DiagnosisModel
    from robustmdiff.encoders.config import ModelConfig
    from robustmdiff.knowledge.concepts import ConceptTable

NAME_TOKENS = 30  # of a concept's name


class Kind(NamedTuple):
    """One kind of model.

    build     build(task, config, concepts=, tokenizer=, **options) -> the untrained model, a DiagnosisModel
    about     what it is, in a few words
    baseline  whether it is there to be compared with
    needs     options of `build` that must be given: no command trains such a kind by its name alone
    reads     what a task must have for it: "findings", or a kind of modality; "": nothing in particular
    """

    build: Callable[..., DiagnosisModel]
    about: str
    baseline: bool = True
    needs: tuple[str, ...] = ()
    reads: str = ""

    def suits(self, task: Task) -> bool:
        if self.reads == "findings":
            return bool(task.findings)
        return not self.reads or any(modality.kind == self.reads for modality in task.modalities)


def _with_knowledge(module: str, name: str) -> Callable[..., DiagnosisModel]:
    """The class `name` of `module`, which knows concepts and reads their names."""

    def build(
        task: Task,
        config: ModelConfig,
        *,
        concepts: ConceptTable | None,
        tokenizer: Tokenizer | None,
        **options: Any,
    ) -> DiagnosisModel:
        from robustmdiff.data.tokenizer import tokenize

        def read(name: str) -> list[int]:
            assert tokenizer is not None
            return tokenize(tokenizer, name, min(NAME_TOKENS, config.max_tokens))[0]

        model = getattr(import_module(f"robustmdiff.{module}"), name)
        return model(task, config, concepts, read if tokenizer is not None else None, **options)

    return build


def _without_knowledge(module: str, name: str) -> Callable[..., DiagnosisModel]:
    """The class `name` of the baseline `module`, imported when it is built: this list costs nothing."""

    def build(
        task: Task,
        config: ModelConfig,
        *,
        concepts: ConceptTable | None,
        tokenizer: Tokenizer | None,
        **options: Any,
    ) -> DiagnosisModel:
        baseline = import_module(f"robustmdiff.baselines.{module}")
        return getattr(baseline, name)(task, config, **options)

    return build


MODELS = {
    "robustmdiff": Kind(
        _with_knowledge("diagnosis.model", "RobustMDiff"),
        "ours: encoders, knowledge and latent diffusion",
        baseline=False,
    ),
    "late_fusion": Kind(
        _without_knowledge("late_fusion", "LateFusion"), "a diagnosis by each modality, averaged"
    ),
    "dropout_transformer": Kind(
        _without_knowledge("dropout_transformer", "DropoutTransformer"),
        "one transformer over all tokens, trained with modalities dropped",
    ),
    "evidence_table": Kind(
        _with_knowledge("baselines.evidence_table", "EvidenceTable"),
        "of ours the evidence and the disease table, without latent and diffusion",
    ),
    "bottleneck": Kind(
        _without_knowledge("bottleneck", "Bottleneck"),
        "findings by each modality, summed, and a linear head on them",
        reads="findings",
    ),
    "product_of_experts": Kind(
        _without_knowledge("product_of_experts", "ProductOfExperts"),
        "a Gaussian opinion by each modality, multiplied",
    ),
    "medm2g": Kind(
        _without_knowledge("completed", "MedM2GCompletion"),
        "a generator as MedM2G's fills in what is absent, a plain fusion reads it",
    ),
    "medcodi_m": Kind(
        _without_knowledge("completed", "MedCoDiMCompletion"),
        "the same with a generator as MedCoDi-M's",
    ),
    "logistic_regression": Kind(
        _without_knowledge("logistic_regression", "LogisticRegression"),
        "on the values, imputed by medians, and on what is missing",
        reads="values",
    ),
    "gradient_boosting": Kind(
        _without_knowledge("gradient_boosting", "GradientBoosting"),
        "boosted trees on the values, missing ones included",
        reads="values",
    ),
    "mask_only": Kind(_without_knowledge("mask_only", "MaskOnly"), "what was ordered, not what was found"),
    "single_modality": Kind(
        _without_knowledge("single_modality", "SingleModality"), "one modality alone", needs=("name",)
    ),
}
BY_NAME = tuple(name for name, kind in MODELS.items() if not kind.needs)  # trained without further options
BASELINES = tuple(name for name in BY_NAME if MODELS[name].baseline)


def load_model(folder: str | Path) -> tuple[DiagnosisModel, Tokenizer | None]:
    """The trained model of a folder, whatever its kind, in evaluation mode, and its tokenizer. Raises
    PretrainedError."""
    from robustmdiff.diagnosis.pretrained import load_pretrained

    return load_pretrained(folder, {name: kind.build for name, kind in MODELS.items()})
