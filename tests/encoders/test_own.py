"""A class of the user's own as an encoder: found where they work, and refused in one sentence."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from robustmdiff.data.collate import Collator
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.encoders.modalities import ModalityEncoders, build_encoder
from robustmdiff.encoders.own import check_output, try_out

CONFIG = EncoderConfig(d_h=4, heads=2)
BRIGHTNESS = """
import torch
from torch import nn

class Brightness(nn.Module):
    def __init__(self, modality, config):
        super().__init__()
        self.linear = nn.Linear(1, config.d_h)

    def forward(self, images):
        tokens = self.linear(images.pixels.mean((1, 2, 3))[:, None])
        return tokens, torch.ones(len(tokens), dtype=torch.long)
"""


def photo(encoder: str) -> Modality:
    return Modality("photo", "image", shape=(1, 5, 7), encoder=encoder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """write(name, source): a module in the current folder, which Python does not look into by itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    before = set(sys.modules)

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_class_in_the_current_folder(here):
    here("of_mine", BRIGHTNESS)
    path = list(sys.path)
    task = Task((photo("of_mine:Brightness"),), ("ill", "well"), (0.2, 0.8))
    encoders = ModalityEncoders(task, CONFIG)
    assert type(encoders.encoders["photo"]).__name__ == "Brightness"
    assert sys.path == path
    patients = [Patient("a", {"photo": torch.rand(1, 5, 7)}), Patient("b", {})]
    encoded = encoders(Collator(task)(patients))
    assert encoded.segments[:, 0, 1].tolist() == [1, 0]
    assert list(encoders.state_dict()) == [f"encoders.photo.linear.{name}" for name in ("weight", "bias")]


def test_what_is_installed_is_not_hidden_by_a_file_in_the_current_folder(here):
    here("json", BRIGHTNESS)
    with pytest.raises(
        ValueError, match=r"is not there: .*has no 'Brightness', expected the name of a class"
    ):
        build_encoder(photo("json:Brightness"), CONFIG)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("nowhere.at_all:Class", r"cannot be imported \(ModuleNotFoundError: No module named 'nowhere'\), "
         r"expected a module 'nowhere.at_all' that is installed or lies in /"),
        ("broken:Class", r"cannot be imported \(ZeroDivisionError: division by zero\), expected a module"),
        ("of_mine:Brightnes", r"is not there: .*of_mine.py has no 'Brightnes' \(did you mean 'Brightness"),
        ("of_mine:torch", r"is a module, expected a subclass of torch.nn.Module"),
        ("of_mine:Plain", r"is a class Plain, expected a subclass of torch.nn.Module"),
        ("of_mine:Other", r"cannot be built \(TypeError: .*positional argument.*\), expected Other\(modal"),
        ("of_mine:Half", r"cannot be built \(TypeError: .*abstract method '?encode'?\), expected Half\("),
        ("of_mine:Raises", r"cannot be run \(RuntimeError: no\), expected forward\(Images\) -> \(tokens, "),
        (":Class", r"cannot be imported \(ValueError: Empty module name\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told_in_one_sentence(here, encoder, message):
    here("broken", "1 / 0")
    here(
        "of_mine",
        BRIGHTNESS
        + """
from robustmdiff.encoders.encoder import Encoder

class Plain:
    pass

class Other(nn.Module):
    def __init__(self):
        super().__init__()

class Half(Encoder):
    def __init__(self, modality, config):
        super().__init__()

    def embed(self, images):
        return images

class Raises(Brightness):
    def forward(self, images):
        raise RuntimeError("no")
""",
    )
    with pytest.raises(ValueError, match=rf"^modality 'photo': encoder '{encoder}' {message}") as e:
        build_encoder(photo(encoder), CONFIG)
    assert "\n" not in str(e.value)


ONE_EACH = torch.ones(2, dtype=torch.long)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(2, 4), r"gives Tensor, expected \(tokens, lengths\), two tensors"),
        ((torch.zeros(2, 4), None), r"gives \(Tensor, NoneType\), expected \(tokens, lengths\)"),
        ((torch.zeros(2, 1, 4), ONE_EACH), r"gives tokens float32 \[2, 1, 4\], expected floating point"),
        ((torch.zeros(2, 5), ONE_EACH), r"gives tokens float32 \[2, 5\], expected .*d_h = 4\]"),
        ((torch.zeros(2, 4).long(), ONE_EACH), r"gives tokens int64 \[2, 4\], expected floating point"),
        ((torch.zeros(2, 4), torch.ones(2)), r"gives lengths float32 \[2\], expected int64 \[2\]"),
        ((torch.zeros(2, 4), ONE_EACH[:1]), r"gives lengths int64 \[1\], expected int64 \[2\], one for each"),
        ((torch.zeros(2, 4), torch.tensor([2, 0])), r"gives lengths of which the least is 0, expected at"),
        ((torch.zeros(2, 4), torch.tensor([2, 1])), r"gives lengths that add up to 3, expected 2, as many"),
        ((torch.full((2, 4), torch.nan), ONE_EACH), r"gives tokens that are NaN or infinite, expected fin"),
    ],
)  # fmt: skip
def test_an_output_that_is_none(output, message):
    with pytest.raises(ValueError, match=rf"^modality 'photo': encoder 'of_mine:Class' {message}"):
        check_output(photo("of_mine:Class"), 4, 2, output)


class Sometimes(nn.Module):
    """Well as long as nobody's image is bright."""

    def forward(self, images):
        tokens = images.pixels.flatten(1)[:, :4]
        return torch.where(tokens > 0, torch.nan, tokens), torch.ones(len(tokens), dtype=torch.long)


def test_every_batch_is_looked_at():
    modality = photo("of_mine:Sometimes")
    task = Task((modality,), ("ill", "well"), (0.2, 0.8))
    encoders = ModalityEncoders(task, CONFIG, only=())
    encoders.encoders["photo"], encoders.anything = Sometimes(), nn.Parameter(torch.zeros(1))
    try_out(encoders.encoders["photo"], modality, CONFIG)
    collate = Collator(task)
    encoders(collate([Patient("dark", {"photo": torch.zeros(1, 5, 7)})]))
    with pytest.raises(ValueError, match="'of_mine:Sometimes' gives tokens that are NaN"):
        encoders(collate([Patient("bright", {"photo": torch.ones(1, 5, 7)})]))


@pytest.mark.parametrize(
    "modality",
    [
        photo("of_mine:Class"),
        Modality("notes", "text", encoder="of_mine:Class"),
        Modality("labs", "values", fields=(Field("crp"), Field("sex", categories=("F", "M"))), encoder="a:B"),
    ],
    ids=lambda m: m.kind,
)
def test_trying_leaves_an_encoder_as_it_was(modality):
    class Tries(nn.Module):
        def forward(self, observations):
            assert not self.training
            assert not torch.is_grad_enabled()
            n = len(observations.rows)
            return torch.rand(n, 4), torch.ones(n, dtype=torch.long)

    encoder, state = Tries(), torch.get_rng_state()
    try_out(encoder, modality, CONFIG)
    assert encoder.training
    assert torch.equal(torch.get_rng_state(), state)
