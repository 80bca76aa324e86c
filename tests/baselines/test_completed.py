"""Diagnosis from a completed record: what fills it depends on what is there, and never replaces it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from robustmdiff.alignment.link import Link
from robustmdiff.alignment.pretrained import load_prompts
from robustmdiff.baselines.completed import MedCoDiMCompletion, MedM2GCompletion
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.task import Task
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.experiment.fit import train_run
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import load_study
from robustmdiff.generation.completion import complete
from robustmdiff.generation.flow_training import FlowData, train_flows
from robustmdiff.models import load_model
from robustmdiff.refusal import Refusal
from tests.experiment.small_run import CONFIG, OPTIONS, cache  # noqa: F401

D, NAMES = 4, ("a", "b", "c")
TASK = Task(
    tuple(Modality(name, "values", fields=(Field("x"),)) for name in NAMES), ("ill", "well"), (0.3, 0.7)
)
SIZES = ModelConfig(d_h=D, heads=2, draws=5, width=32, depth=2, dropout=0.0)
KINDS = [MedM2GCompletion, MedCoDiMCompletion]


def world(n: int, seed: int = 0) -> torch.Tensor:
    """Unit vectors [n, 3, D]: b is a turned, c is nobody's business."""
    g = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(9)))[0]
    a, c = normalize(torch.randn(2, n, D, generator=g), dim=2)
    return torch.stack([a, a @ turn, c], dim=1)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def taught(request, tmp_path_factory):
    """A generator that has learned the world, and whether it reads what is there."""
    torch.manual_seed(0)
    model = request.param(TASK, SIZES)
    h = world(256)
    m = torch.ones(len(h), 3, dtype=torch.bool)
    data = FlowData(
        dict(zip(NAMES, (D**0.5 * h).unbind(1), strict=True)), dict(zip(NAMES, m.T, strict=True)), h, m
    )
    config = model.flow_config().model_copy(update={"epochs": 80, "learning_rate": 5e-3, "save_every": 500})
    stages = model.stages([Link("a", "b"), Link("a", "c")])
    train_flows(model.flows, data, stages, config, tmp_path_factory.mktemp("flows"))
    return model.flows.eval(), request.param.reads


def filled(taught, there, guidance=1.0, seed=3):
    """The vectors of 64 new people of whom `there` is there, and theirs."""
    flows, reads = taught
    h = world(64, seed=1)
    m = torch.tensor([name in there for name in NAMES]).expand(64, 3)
    noise = torch.randn(64, 3, D, generator=torch.Generator().manual_seed(seed))
    x = complete(flows, h, m, ~m, noise, steps=4, guidance=guidance, reads=reads)
    return x, h


def test_what_fills_is_what_goes_with_what_is_there(taught):
    """b by a, and a by b, far closer to the patient's own than to another's; c by nothing."""
    for there, asked in (("a", 1), ("ac", 1), ("b", 0), ("bc", 0)):
        x, h = filled(taught, there)
        own, another = ((x[:, asked] * h.roll(k, 0)[:, asked]).sum(1).mean() for k in (0, 1))
        assert own > 0.3 > 0.15 > another, (there, own, another)
    x, h = filled(taught, "a")
    assert (x[:, 2] * h[:, 2]).sum(1).mean().abs() < 0.25


def test_without_guidance_it_depends_on_nothing_and_with_more_on_more(taught):
    """The flows read one another still: that b goes with a is nothing that is asked for."""
    x, h = filled(taught, "a", guidance=0)
    assert (x[:, 1] * h[:, 1]).sum(1).mean().abs() < 0.25
    flows, reads = taught
    m, noise = torch.tensor([True, False, False]).expand(64, 3), torch.randn(64, 3, D)
    how = {"steps": 4, "reads": reads}
    others = (complete(flows, each, m, ~m, noise, guidance=0, **how) for each in (h, h.roll(1, 0)))
    assert torch.equal(*(each[:, 1:] for each in others))
    strong, _ = filled(taught, "a", guidance=2)
    assert not torch.allclose(strong[:, 1], filled(taught, "a")[0][:, 1], atol=0.01)


def test_what_is_there_is_never_replaced_and_draws_differ(taught):
    flows, reads = taught
    h = world(6, seed=2)
    m = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 1]]).bool()
    lacking = ~m & m.any(1, keepdim=True) & torch.tensor([True, True, False])
    poisoned = h.masked_fill(~m[..., None], torch.nan)
    first, second = (
        complete(flows, poisoned, m, lacking, torch.randn(6, 3, D), steps=4, reads=reads) for _ in range(2)
    )
    assert torch.equal(first[m], h[m])
    assert not first[~(m | lacking)].any()
    torch.testing.assert_close(first[lacking].norm(dim=1), torch.ones(int(lacking.sum())))
    assert ((first - second)[lacking].norm(dim=1) > 0.01).all()


def test_a_row_is_filled_alike_whoever_is_beside_it(taught):
    flows, reads = taught
    h, noise = world(6, seed=2), torch.randn(6, 3, D)
    m = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1]]).bool()

    def fill(rows):
        return complete(flows, h[rows], m[rows], ~m[rows], noise[rows], steps=4, guidance=2.0, reads=reads)

    alone = torch.cat([fill(slice(i, i + 1)) for i in range(6)])
    torch.testing.assert_close(fill(slice(None)), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_answer_is_the_mean_over_completions(multilabel):
    torch.manual_seed(0)
    model = MedM2GCompletion(replace(TASK, multilabel=multilabel), SIZES).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    m = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]])
    rows = torch.arange(12).view(4, 3)
    H = torch.cat([torch.randn(4, 3, D), world(4)], dim=2)
    encoded = Encoded(H[..., :D].reshape(12, D), torch.stack([rows, m], -1).int(), H)
    drawn = model.imagined(encoded, draws=SIZES.draws, seed=0).logits
    answer = model.labels.probability(model.classify(encoded).logits)
    torch.testing.assert_close(answer, model.labels.probability(drawn).mean(0))
    spread = drawn.std(0).amax(1)
    assert spread[0] < 1e-6 < 1e-3 < spread[1:3].min()
    asked = model.diagnose(encoded, draws=3, seed=1)
    assert torch.equal(asked.probability, model.diagnose(encoded).probability)
    assert asked.draws.shape == (3, 4, 2)
    assert torch.equal(asked.draws[:, 3], torch.tensor([0.3, 0.7]).expand(3, 2))


def test_guidance_is_a_number_from_0():
    with pytest.raises(Refusal, match=r"guidance is -1, expected a number from 0 to below 100"):
        MedM2GCompletion(TASK, SIZES, guidance=-1)


@pytest.fixture(scope="module")
def small(cache):  # noqa: F811
    return load_study(Source("cohort", options=OPTIONS))


@pytest.mark.parametrize("kind", ["medm2g", "medcodi_m"])
def test_it_trains_as_any_model_is_loaded_and_resumes(small, kind, tmp_path):
    options = {"guidance": 2.0}
    run = train_run(small, CONFIG, tmp_path / "run", kind=kind, options=options)
    model = run.model
    plain = json.loads((tmp_path / "run" / "model" / "model.json").read_text(encoding="utf-8"))
    assert plain["options"] == options
    assert model.able.all()
    links = sorted(path.name for path in (tmp_path / "run" / "prepared" / "links").iterdir())
    assert links == sorted(f"text-{name}" for name in small.task.modality_names if name != "text")
    last, _ = load_prompts(tmp_path / "run" / "prepared" / "links" / "text-genomic" / "model")
    for key, value in last.state_dict().items():  # the diagnosis has not changed them
        assert torch.equal(model.prompts.state_dict()[key], value), key
    own = model.encoders.state_dict()
    changed = [not torch.equal(own[k], v) for k, v in last.encoders.state_dict().items()]
    assert any(changed)
    again, _ = load_model(tmp_path / "run" / "model")
    batch = run.collator(small.patients["test"])
    one, other = (each.diagnose(each.encode(batch)).probability for each in (model, again))
    assert torch.equal(one, other)
    if kind == "medcodi_m":
        return
    # stopped when the generator was ready: it is not trained again, and the rest gives the same
    for path in (tmp_path / "run").glob("*.safetensors"):
        path.unlink()
    steps = tmp_path / "run" / "prepared" / "stages"
    before = {path: path.read_bytes() for path in steps.rglob("last.safetensors")}
    resumed = train_run(small, CONFIG, tmp_path / "run", kind=kind, options=options, resume=True)
    assert {path: path.read_bytes() for path in steps.rglob("last.safetensors")} == before
    found = resumed.model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
