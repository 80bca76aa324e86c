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

NAME_TOKENS = 30  # of a concept's name


class Kind(NamedTuple):
    """One kind of model.

    build     build(task, config, concepts=, tokenizer=, **options) -> the untrained model, a DiagnosisModel
    about     what it is, in a few words
    baseline  whether it is there to be compared with
    needs     options of `build` that must be given: no command trains such a kind by its name alone
    """

    build: Callable[..., DiagnosisModel]
    about: str
    baseline: bool = True
    needs: tuple[str, ...] = ()


def _robustmdiff(
    task: Task, config: ModelConfig, *, concepts: Any, tokenizer: Any, **options: Any
) -> DiagnosisModel:
    from robustmdiff.data.tokenizer import tokenize
    from robustmdiff.diagnosis.model import RobustMDiff

    def read(name: str) -> list[int]:
        return tokenize(tokenizer, name, min(NAME_TOKENS, config.max_tokens))[0]

    return RobustMDiff(task, config, concepts, read if tokenizer is not None else None, **options)


def _without_knowledge(module: str, name: str) -> Callable[..., DiagnosisModel]:
    """The class `name` of the baseline `module`, imported when it is built: this list costs nothing."""

    def build(
        task: Task, config: ModelConfig, *, concepts: Any, tokenizer: Any, **options: Any
    ) -> DiagnosisModel:
        baseline = import_module(f"robustmdiff.baselines.{module}")
        return getattr(baseline, name)(task, config, **options)

    return build


MODELS = {
    "robustmdiff": Kind(_robustmdiff, "ours: encoders, knowledge and latent diffusion", baseline=False),
    "late_fusion": Kind(
        _without_knowledge("late_fusion", "LateFusion"), "a diagnosis by each modality, averaged"
    ),
    "dropout_transformer": Kind(
        _without_knowledge("dropout_transformer", "DropoutTransformer"),
        "one transformer over all tokens, trained with modalities dropped",
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
