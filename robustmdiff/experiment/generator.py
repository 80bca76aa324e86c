"""From a study to a generator: align, fit latents, train flows, save everything.

runs/name/
  study.json          where the patients come from
  split.json          which records trained
  config.yaml         every hyper-parameter
  links/, stages/, details/, translations/   the run of each part, with its checkpoints
  model/              the generator (`generation.pretrained`)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field

from robustmdiff.alignment.chain import align
from robustmdiff.alignment.config import AlignConfig
from robustmdiff.alignment.link import Link
from robustmdiff.alignment.prompts import alone
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.series import split_channels
from robustmdiff.data.splits import hold_out, save_split
from robustmdiff.data.study import texts_of
from robustmdiff.data.task import Task
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.experiment.run import SPLIT
from robustmdiff.experiment.studies import SPLITS, Study
from robustmdiff.generation.detail import DetailConfig, train_detail
from robustmdiff.generation.flow_objective import FlowConfig, Stage
from robustmdiff.generation.flow_training import FlowData, medcodi_m, published_stages, train_flows
from robustmdiff.generation.latents.dct import BlockDCT
from robustmdiff.generation.latents.latent import ImageLatent
from robustmdiff.generation.latents.principal import PrincipalComponents
from robustmdiff.generation.latents.text import TextLatent
from robustmdiff.generation.medm2g import MedM2G
from robustmdiff.generation.observed import encodable, frame_of, having
from robustmdiff.generation.pretrained import load_generator, save_generator
from robustmdiff.generation.train_translation import TranslationConfig, train_translation
from robustmdiff.generation.translation import Packed, Translation
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import unknown
from robustmdiff.training.config import ConfigError, read_config
from robustmdiff.whole import write_whole


class GeneratorConfig(BaseModel):
    """How to train a generator: what it consists of, and how each part is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    split: tuple[str, ...] = Field((), description="images whose channels become modalities of their own")
    only: tuple[str, ...] = Field(
        (), description="modalities that it is of, those that are split by their parts' names; none: all"
    )
    links: tuple[tuple[str, str], ...] = Field(
        (), description="of the alignment, in order; none: text with every other modality"
    )
    frames: tuple[tuple[str, ...], ...] = Field(
        (), description="groups of images whose pixels show the same place, translated from one another"
    )
    form: Literal["together", "published", "medcodi_m"] = Field(
        "together",
        description="flows trained together; each alone and then link by link, frozen; the latter along "
        "MedCoDi-M's links, of two views and a report",
    )
    process: Literal["straight", "cosine"] = Field(
        "straight", description="of the flows: rectified, or a diffusion in v on the cosine schedule"
    )
    gist: int = Field(96, ge=1, description="numbers of an image's global latent")
    text: int = Field(64, ge=1, description="numbers of a text's latent")
    block: int = Field(4, ge=1, description="side of the blocks of the grid latent, pixels")
    align: AlignConfig = AlignConfig()
    flows: FlowConfig = FlowConfig()
    detail: DetailConfig = DetailConfig()
    translation: TranslationConfig = TranslationConfig()


def load_generator_config(path: Path | None, overrides: Mapping[str, Any]) -> GeneratorConfig:
    """That of a YAML file, if any, over which the overrides win, part by part. Raises ConfigError."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    for name, value in overrides.items():
        part = isinstance(value, Mapping) and isinstance(values.get(name), Mapping)
        values[name] = {**values[name], **value} if part else value
    return read_config(GeneratorConfig, values, str(path or "--set"))


def read_generator_config(folder: Path) -> GeneratorConfig:
    """That of a run."""
    return load_generator_config(folder / "config.yaml", {})


def series_of(
    task: Task, patients: Sequence[Patient], config: GeneratorConfig
) -> tuple[Task, Sequence[Patient]]:
    """The task and the patients as the generator has them: images split into their channels, and of all
    modalities those that it is of."""
    for name in config.split:
        task, patients = split_channels(task, patients, name)
    if not config.only:
        return task, patients
    for name in config.only:
        if name not in task.modality_names:
            raise ConfigError(f"only: {unknown('modality', name, task.modality_names)}")
    kept = tuple(modality for modality in task.modalities if modality.name in config.only)
    return replace(task, modalities=kept), [alone(patient, config.only) for patient in patients]


def train_generator(
    study: Study,
    config: GeneratorConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    device: torch.device | None = None,
) -> MedM2G:
    """Train a generator on a study's training patients and save it in `folder`/model. Resumes exactly where
    it stopped. Raises Refusal (DataError, ConfigError and others)."""
    folder = Path(folder)
    _claim(folder, study, config, resume)
    task, patients = series_of(study.task, study.patients["train"], config)
    patients = list(patients)
    how: dict[str, Any] = {"resume": resume, "device": device}

    texts = texts_of(patients, task)
    tokenizer = train_tokenizer(texts) if texts else None
    sizes = config.align.model
    if tokenizer is not None:
        sizes = replace(sizes, vocabulary=tokenizer.get_vocab_size())
    aligning = config.align.model_copy(update={"model": sizes})
    links = [Link(*pair) for pair in config.links or hub_links(task)]
    prompts = align(task, links, patients, aligning, folder, tokenizer=tokenizer, **how)

    torch.manual_seed(config.flows.seed)  # of first weights: the same whether or not links have just trained
    latents = _latents(task, patients, config)
    model = MedM2G(task, prompts, *latents, config.frames, tokenizer, config.process)
    stages = stages_of(config.form, task, links)
    train_flows(model.flows, flow_data(model, patients), stages, config.flows, folder, **how)
    for name in model.grids:
        x = _of(patients, task, name)
        train_detail(model.detail(name), x, config.detail, folder / "details" / name, **how)
    fitting, watching = hold_out(patients, config.translation.seed)
    for frame, translation in model.translated():
        train, valid = (packed_frame(translation, task, some) for some in (fitting, watching))
        place = folder / "translations" / "-".join(frame)
        train_translation(translation, train, valid, config.translation, place, **how)
    save_generator(model, folder / "model")
    return load_generator(folder / "model")


def hub_links(task: Task) -> list[tuple[str, str]]:
    """Text with every other modality; without a text, the first with every other."""
    names = list(task.modality_names)
    texts = [modality.name for modality in task.of_kind("text")]
    hub = texts[0] if texts else names[0]
    return [(hub, name) for name in names if name != hub]


def stages_of(form: str, task: Task, links: Sequence[Link]) -> list[Stage]:
    """How the flows are trained, those of all texts and images. ConfigError for "medcodi_m" where these are
    not two views and a report."""
    flows = [modality.name for modality in task.modalities if modality.kind in ("text", "image")]
    if form == "together":
        return [Stage("together", tuple(flows), "all")]
    if form == "published":
        return published_stages([link for link in links if set(link) <= set(flows)])
    images, texts = ([modality.name for modality in task.of_kind(kind)] for kind in ("image", "text"))
    if (len(images), len(texts)) != (2, 1):
        raise ConfigError(
            f"form is 'medcodi_m', and there are {len(images)} images and {len(texts)} texts "
            f"({', '.join([*images, *texts])}), expected two images and one text: name them in `only`"
        )
    return medcodi_m(*images, *texts)


def flow_data(model: MedM2G, patients: Sequence[Patient]) -> FlowData:
    """Latents and prompts of patients; what a patient lacks is 0, and not looked at."""
    latents, presence = {}, {}
    for name in model.gists:
        gist = model.gist(name)
        presence[name] = having(patients, name)
        rows = presence[name].nonzero()[:, 0]
        latents[name] = torch.zeros(len(patients), *gist.shape)
        if len(rows):
            with torch.no_grad():
                latents[name][rows] = gist.encode(_of(patients, model.task, name)).cpu()
    h, m = model.prompts.embed(patients, model.tokenizer)
    return FlowData(latents, presence, h, m)


def packed_frame(translation: Translation, task: Task, patients: Sequence[Patient]) -> Packed:
    """The images of a frame, of all patients."""
    images, present = frame_of(patients, [task.modality(name) for name in translation.draft.series])
    with torch.no_grad():
        return translation.draft.pack(images, present)


def _latents(
    task: Task, patients: Sequence[Patient], config: GeneratorConfig
) -> tuple[dict[str, ImageLatent | TextLatent], dict[str, ImageLatent]]:
    """Fitted on the patients, of every text and image of the task."""
    gists: dict[str, ImageLatent | TextLatent] = {}
    grids: dict[str, ImageLatent] = {}
    for modality in task.modalities:
        name = modality.name
        if modality.kind not in ("text", "image"):
            continue
        if not any(patient.has(name) for patient in patients):
            raise DataError(f"modality {name!r}: no training patient has it, expected some who do")
        if modality.kind == "text":
            gists[name] = TextLatent.fit(_of(patients, task, name), config.text)
            continue
        x = _of(patients, task, name)
        C, H, W = x.shape[1:]
        gist, grids[name] = PrincipalComponents((C, H, W), config.gist), BlockDCT((C, H, W), config.block)
        gist.fit(x)
        grids[name].fit(x)
        gists[name] = gist
    return gists, grids


def _of(patients: Sequence[Patient], task: Task, name: str) -> Any:
    """As the latent of a modality takes the observations of those who have one."""
    return encodable([patient for patient in patients if patient.has(name)], task.modality(name))


def _claim(folder: Path, study: Study, config: GeneratorConfig, resume: bool) -> None:
    """Note in a new run's folder who is studied and how; one that is there must be resumed, with the same."""
    task, _ = series_of(study.task, [], config)
    for name in (*(n for pair in config.links for n in pair), *(n for frame in config.frames for n in frame)):
        if name not in task.modality_names:
            raise ConfigError(f"links and frames: {unknown('modality', name, task.modality_names)}")
    stages_of(config.form, task, [])
    says = {
        "study.json": json.dumps(study.source.to_json(), indent=1).encode(),
        "config.yaml": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode(),
    }
    if (folder / "study.json").exists():
        if not resume:
            raise Refusal(f"{folder}: holds a run, expected a new folder, or --resume to go on with it")
        for name, content in says.items():
            if (folder / name).read_bytes() != content:
                raise Refusal(f"{folder / name}: is of another run, expected the same data and settings")
        return
    for name, content in reversed(says.items()):
        write_whole(folder / name, content)
    save_split(folder / SPLIT, {name: [p.id for p in study.patients[name]] for name in SPLITS})
