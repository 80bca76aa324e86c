"""One YAML file, one configuration: every hyper-parameter under its name in the papers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from robustmdiff.encoders.config import RETIRED, ModelConfig, without_retired
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import did_you_mean


class ConfigError(Refusal):
    """A configuration that cannot be used; one sentence with the key, its value and what was expected."""


class LoopConfig(BaseModel):
    """What the loop itself asks, whatever it trains; for each kind of training a subclass adds its own.

    Keys unknown to it are refused. Numbers of steps are optimiser steps. None is a number that adapts
    to how many patients there are (`training.budget`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    free: ClassVar[tuple[str, ...]] = ("save_every", "log_every")  # change no number: may differ on resume

    seed: int = Field(0, ge=0, description="of the order of patients, masks and noise")
    learning_rate: float = Field(1e-3, gt=0, description="highest, after the warm-up; falls as a cosine")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of all steps")
    weight_decay: float = Field(0.01, ge=0, description="of matrices; biases and norms have none")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    epochs: int | None = Field(None, ge=1, description="null: 20, more where these are few steps")
    batch_size: int | None = Field(
        None, ge=1, description="patients per step, over all processes; null: 64, fewer where they are few"
    )
    accumulate: int = Field(1, ge=1, description="parts of a batch that one after the other give a gradient")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="of the averaged weights that are evaluated")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    valid_every: int = Field(1, ge=1, description="epochs between validations")
    save_every: int = Field(0, ge=0, description="steps between checkpoints; 0: each epoch")
    log_every: int = Field(10, ge=1, description="steps between lines of the log")

    @model_validator(mode="after")
    def _parts(self) -> Self:
        if self.batch_size is not None and self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate is {self.accumulate}, expected at most batch_size = {self.batch_size}"
            )
        return self


class TrainConfig(LoopConfig):
    """How to train a diagnosis model. `model` holds the sizes of the network (`ModelConfig`)."""

    free: ClassVar[tuple[str, ...]] = (*LoopConfig.free, "cache_gb")

    model: ModelConfig = ModelConfig()

    # the weights of L_total (diagnosis.losses)
    lambda_diff: float = Field(0.0, ge=0, description="of a joint denoiser, which it alone teaches; 0: none")
    lambda_cons: float = Field(0.1, ge=0, description="of the agreement with the teacher's complete view")
    lambda_class: float = Field(1.0, ge=0, description="of the classification")
    lambda_find: float = Field(1.0, ge=0, description="of the evidence for each finding, or for each class")

    forecast: Literal["flow", "ddpm", "none"] = Field(
        "flow", description="of the fuller view, learned in a second stage; none: a joint denoiser's, if any"
    )

    # the masking curriculum (MaskingCurriculum)
    p_min: float = Field(0.1, ge=0, le=1, description="drop rate at the start")
    p_max: float = Field(0.9, ge=0, le=1, description="drop rate at the end; under 0.9 robustness suffers")
    r: float = Field(0.5, ge=0, le=1, description="share of training after which p_max is reached")
    p_scale: dict[str, float] = Field({}, description="factor on the drop rate, by modality name")
    p_structured: float = Field(0.3, ge=0, le=1, description="probability of a structured drop")
    p_nothing: float = Field(0.05, ge=0, lt=1, description="probability that everything is hidden")
    p_spread: bool = Field(True, description="a drop rate of each patient's own, up to the curriculum's")

    # rare classes: (f_max / f_c)^gamma
    gamma: float = Field(0.5, ge=0, description="0 treats all classes alike")
    rare: Literal["weight", "sample"] = Field("weight", description="in the loss, or by drawing more often")

    valid_missing: tuple[float, ...] = Field((0.0, 0.5), min_length=1, description="MCAR rates in validation")
    monitor: Literal["macro_auroc", "log_loss", "last"] | None = Field(
        None, description="which picks the best weights; null: by how many patients validate"
    )
    cache_gb: float = Field(1.0, ge=0, description="patients are packed once if they fit into this memory")

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if self.p_min > self.p_max:
            raise ValueError(f"p_min is {self.p_min}, expected at most p_max = {self.p_max}")
        for name, scale in self.p_scale.items():
            if not scale >= 0:
                raise ValueError(f"p_scale.{name} is {scale}, expected a number of at least 0")
        for rate in self.valid_missing:
            if not 0 <= rate < 1:
                raise ValueError(f"valid_missing has {rate}, expected rates in [0, 1)")
        return self

    @field_validator("model", mode="before")
    @classmethod
    def _of_an_earlier_version(cls, model: Any) -> Any:
        return without_retired(model) if isinstance(model, Mapping) else model


Config = TypeVar("Config", bound=BaseModel)


def read_config(kind: type[Config], values: Mapping[str, Any], source: str) -> Config:
    """A configuration of this kind from plain values; ConfigError in one sentence when they do not fit."""
    _known_keys(values, kind.model_fields, "", source)
    try:
        return kind.model_validate(dict(values))
    except ValidationError as e:
        raise ConfigError(f"{source}: {_sentence(e)}") from None


def make_config(values: Mapping[str, Any], source: str = "config") -> TrainConfig:
    """`read_config` of a TrainConfig, which knows the keys of `model`, too."""
    model = values.get("model", {})
    if isinstance(model, Mapping):
        sizes = {key: value for key, value in model.items() if key not in RETIRED}
        _known_keys(sizes, [f.name for f in dataclasses.fields(ModelConfig)], "model.", source)
    return read_config(TrainConfig, values, source)


def load_config(path: Path | str, **overrides: Any) -> TrainConfig:
    """Read a YAML file; `overrides` win over what it says, key by key, in `model` too."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file, expected a YAML file of hyper-parameters"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(e).split())}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}, expected lines of `key: value`")
    if isinstance(values.get("model", {}), dict) and isinstance(overrides.get("model"), dict):
        overrides["model"] = {**values.get("model", {}), **overrides["model"]}
    return make_config({**values, **overrides}, str(path))


def dump_config(config: LoopConfig) -> str:
    """Every hyper-parameter, defaults included, as YAML with what each one means."""
    lines = []
    for name, value in plain_config(config).items():
        text = yaml.safe_dump({name: value}, sort_keys=False, default_flow_style=False, allow_unicode=True)
        if isinstance(value, list):
            text = f"{name}: {value}\n"
        what = type(config).model_fields[name].description
        lines.append(f"{text.strip():<28}# {what}\n" if what and text.count("\n") == 1 else text)
    return "".join(lines)


def plain_config(config: LoopConfig) -> dict[str, Any]:
    """The configuration in JSON's types."""
    return config.model_dump(mode="json")


def _known_keys(values: Mapping[str, Any], known: Iterable[str], prefix: str, source: str) -> None:
    names = [prefix + name for name in known]
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name not in names:
            hint = did_you_mean(name, names)
            raise ConfigError(
                f"{source}: unknown key {name!r} with value {value!r}{hint}, expected a known key"
            )


def _sentence(e: ValidationError) -> str:
    first = e.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"]
    if first["type"] == "value_error":  # our own checks, complete sentences
        return message.removeprefix("Value error, ")
    expected = message.removeprefix("Input should be ").split(", unable to parse")[0]
    return f"{key} is {first['input']!r}, expected {expected}"
