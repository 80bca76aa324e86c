"""Configurations and pipelines: saved as diffusers saves its own, loaded with and without this package."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from robustmdiff.nn import FusedDDIMScheduler, FusedDDPMScheduler
from tests.nn.diffusers_scheduler.pairs import PAIRS, seeded

PIPELINES = {DDPMScheduler: DDPMPipeline, DDIMScheduler: DDIMPipeline}
# A process in which this package cannot be imported: it samples from each folder and saves what it got there.
WITHOUT_US = """
import sys

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "robustmdiff":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nowhere())
import torch
from diffusers import DiffusionPipeline
for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="np").images
    found = {"images": torch.from_numpy(images), "scheduler": type(pipe.scheduler).__qualname__}
    torch.save(found, f"{folder}.pt")
assert "robustmdiff" not in sys.modules
"""


def pipeline(theirs, scheduler):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    pipe = PIPELINES[theirs](unet, scheduler)
    pipe.scheduler = scheduler  # DDIMPipeline makes a plain DDIMScheduler of what it is given
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe):
    return torch.from_numpy(pipe(num_inference_steps=3, generator=seeded(), output_type="np").images)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A pipeline with each scheduler of ours and its folder, in which a process
    without us has sampled: one process for all, whose imports take most of the time."""
    pipes = {
        tmp_path_factory.mktemp("pipes") / theirs.__name__: pipeline(
            theirs, ours(num_train_timesteps=50, prediction_type="v_prediction")
        )
        for theirs, ours in (pair.values for pair in PAIRS)
    }
    for folder, pipe in pipes.items():
        pipe.save_pretrained(folder)
    subprocess.run([sys.executable, "-c", WITHOUT_US, *pipes], check=True)
    return {folder.name: (folder, pipe) for folder, pipe in pipes.items()}


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_a_saved_pipeline_needs_nothing_of_ours(theirs, ours, saved):
    folder, pipe = saved[theirs.__name__]
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    assert index["scheduler"] == ["diffusers", theirs.__name__]
    found = torch.load(f"{folder}.pt")
    assert found["scheduler"] == theirs.__qualname__
    torch.testing.assert_close(found["images"], sample(pipe), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_a_saved_pipeline_is_loaded_with_the_fused_scheduler(theirs, ours, tmp_path):
    pipe = pipeline(theirs, ours(num_train_timesteps=50, prediction_type="v_prediction"))
    pipe.save_pretrained(tmp_path)
    loaded = PIPELINES[theirs].from_pretrained(tmp_path)
    assert type(loaded.scheduler) is theirs
    loaded.scheduler = ours.from_config(loaded.scheduler.config)
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(sample(loaded), sample(pipe), rtol=1e-5, atol=1e-5)
    given = DDPMPipeline.from_pretrained(tmp_path, scheduler=ours.from_pretrained(tmp_path / "scheduler"))
    assert type(given.scheduler) is ours


def test_a_pipeline_saved_with_the_name_of_our_module_is_still_loaded(tmp_path):
    pipeline(DDPMScheduler, FusedDDPMScheduler()).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text(encoding="utf-8"))
    index["scheduler"] = ["robustmdiff.nn.diffusers_scheduler", "FusedDDPMScheduler"]
    (tmp_path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    assert type(DDPMPipeline.from_pretrained(tmp_path).scheduler) is FusedDDPMScheduler


def test_a_class_derived_from_ours_is_saved_under_its_own_name():
    class Mine(FusedDDPMScheduler):
        pass

    pipe = pipeline(DDPMScheduler, Mine())
    assert pipe.config["scheduler"] == (__name__, "Mine")


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_what_it_calls_itself(theirs, ours):
    """The name under which it is saved is diffusers'; what is printed says which one it is."""
    scheduler = ours()
    assert repr(ours) == f"<class '{ours.__module__}.Fused{theirs.__name__}'>"
    assert repr(scheduler).startswith(f"Fused{theirs.__name__} {{")
    assert isinstance(scheduler, theirs)
    assert getattr(sys.modules[ours.__module__], f"Fused{theirs.__name__}") is ours


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_configurations_go_both_ways(theirs, ours, tmp_path):
    plain = theirs(num_train_timesteps=77, clip_sample=False, prediction_type="v_prediction")
    plain.save_pretrained(tmp_path / "theirs")
    fused = ours.from_pretrained(tmp_path / "theirs")
    fused.save_pretrained(tmp_path / "ours")
    back = theirs.from_pretrained(tmp_path / "ours")
    files = [
        (tmp_path / who / "scheduler_config.json").read_text(encoding="utf-8") for who in ("theirs", "ours")
    ]
    assert files[0] == files[1]
    public = [{k: v for k, v in s.config.items() if k[0] != "_"} for s in (plain, fused, back)]
    assert public[0] == public[1] == public[2]
    assert type(back) is theirs
    assert theirs in ours.from_config(plain.config).compatibles
    assert torch.equal(copy.deepcopy(fused).timesteps, plain.timesteps)


def test_ddpm_and_ddim_configurations_go_into_each_other():
    scheduler = FusedDDIMScheduler.from_config(FusedDDPMScheduler(num_train_timesteps=77).config)
    assert scheduler.config.num_train_timesteps == 77
    assert FusedDDPMScheduler.from_config(scheduler.config).config.variance_type == "fixed_small"


def test_without_diffusers_the_error_says_what_to_install(monkeypatch):
    import robustmdiff.nn as layers

    monkeypatch.delitem(sys.modules, "robustmdiff.nn.diffusers_scheduler")
    monkeypatch.delattr(layers, "diffusers_scheduler")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModuleNotFoundError, match=r"FusedDDPMScheduler needs diffusers: pip install"):
        _ = layers.FusedDDPMScheduler
