"""Training in stages: what each changes, what it never reads, and that it goes on where it was stopped."""

import math

import pytest
import torch

from robustmdiff.generation.flow_objective import FlowConfig, FlowObjective, Stage
from robustmdiff.generation.flow_training import medcodi_m, published_stages, train_flows
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import load_checkpoint
from robustmdiff.training.interrupt import Interrupted
from robustmdiff.training.loop import Loop
from tests.generation.flows import small_data, small_model

CPU = torch.device("cpu")
SHORT = FlowConfig(epochs=2, batch_size=16, known=0.3)
MEDM2G = published_stages([("report", "xray"), ("report", "ct"), ("ct", "mri")])
ALL = Stage("all", ("xray", "ct", "mri", "report"), "all")


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The run's folder, and the weights before and after each stage."""
    model, folder = small_model(), tmp_path_factory.mktemp("published")
    states, data = [weights(model)], small_data(40)
    train_flows(model, data, MEDM2G, SHORT, folder, device=CPU)
    states += [load_checkpoint(folder / "stages" / stage.name).weights for stage in MEDM2G]
    return folder, states, model


def test_in_the_published_form_a_link_trains_only_how_flows_read_that_no_link_before_has_trained(published):
    _, states, model = published
    ways = {stage.name: changed(*states[i : i + 2]) for i, stage in enumerate(MEDM2G)}
    assert list(ways) == ["report", "xray", "ct", "mri", "report-xray", "report-ct", "ct-mri"]
    for name in ("report", "xray", "ct", "mri"):
        parts = {key.removeprefix(f"flows.{name}.").split(".")[0] for key in ways[name]}
        assert parts == {"network", "mixing"}
        assert all(key.startswith(f"flows.{name}.") for key in ways[name])

    def touched(link):
        return {".".join(key.split(".")[:3]) for key in ways[link]}

    def own(name):
        return {f"flows.{name}.environment", f"flows.{name}.gates"}

    def sublayers(name):
        return {f"cross.{model.sharing[name]}.{i}" for i in range(len(model.flow(name).gates))}

    assert touched("report-xray") == own("report") | own("xray") | sublayers("report") | sublayers("xray")
    assert touched("report-ct") == own("ct")  # it reads through the sub-layers of the X-ray's flow
    assert touched("ct-mri") == own("mri") | sublayers("mri")


def test_each_stage_leaves_a_checkpoint_that_works_alone(published):
    folder, states, model = published
    for stage in MEDM2G:
        alone = small_model()
        alone.load_state_dict(load_checkpoint(folder / "stages" / stage.name).weights)
    assert not changed(states[-1], alone.state_dict())
    assert not changed(states[-1], model.state_dict())


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    stages, data = [Stage("xray", ("xray",), "flows"), ALL], small_data(40)
    whole = small_model()
    train_flows(whole, data, stages, SHORT, tmp_path / "whole", device=CPU)
    step = Loop._step

    def stopped(self, interrupt):
        stop = step(self, interrupt)
        return 15 if self.name == "all" and self.step == 2 else stop

    monkeypatch.setattr(Loop, "_step", stopped)
    with pytest.raises(Interrupted):
        train_flows(small_model(), data, stages, SHORT, tmp_path / "parts", device=CPU)
    monkeypatch.setattr(Loop, "_step", step)
    resumed = small_model()
    train_flows(resumed, data, stages, SHORT, tmp_path / "parts", resume=True, device=CPU)
    assert not changed(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("stages", [[ALL], MEDM2G], ids=["together", "published"])
def test_what_is_absent_is_never_read(stages, tmp_path):
    models, data = [small_model(), small_model()], small_data(40)
    hidden = {name: z.clone() for name, z in data.latents.items()}
    for name, z in hidden.items():
        z[~data.presence[name]] = torch.nan
    h = data.h.masked_fill(~data.m[..., None], torch.nan)
    config = SHORT.model_copy(update={"contrast": 0.1})
    train_flows(models[0], data, stages, config, tmp_path / "0", device=CPU)
    train_flows(models[1], data._replace(latents=hidden, h=h), stages, config, tmp_path / "1", device=CPU)
    assert not changed(models[0].state_dict(), models[1].state_dict())
    assert all(p.isfinite().all() for p in models[1].parameters())


def test_what_a_row_is_told_it_neither_generates_nor_reads_and_a_clean_flow_is_read_alone():
    data = small_data(400)
    objective = FlowObjective(small_model(), ALL, FlowConfig(known=0.5))
    objective.before_step(5)
    present = torch.stack([data.presence[name] for name in ALL.flows], dim=1)
    drawn = objective.draw(torch.arange(400), data.m, present)
    told = drawn.told[:, objective.place]
    assert told.any()
    assert not (told & (drawn.generated | drawn.seen)).any()
    assert not ((drawn.generated | drawn.seen) & ~present).any()
    clean = drawn.t == 0
    assert clean.any()
    assert drawn.seen[clean].all()
    assert not drawn.generated[clean].any()
    assert clean.sum(1).max() == 1
    again = objective.draw(torch.arange(400)[100:150], data.m[100:150], present[100:150])
    assert all(torch.equal(a[100:150], b) for a, b in zip(drawn, again, strict=True))  # a row's own


def test_with_a_contrast_a_batch_has_one_time():
    data = small_data(30)
    objective = FlowObjective(small_model(), MEDM2G[4], FlowConfig(contrast=0.1))
    objective.before_step(5)
    present = torch.stack([data.presence[name] for name in MEDM2G[4].flows], dim=1)
    t = objective.draw(torch.arange(30), data.m, present).t
    assert t.unique().numel() == 1
    objective.before_step(6)
    assert objective.draw(torch.arange(30), data.m, present).t[0, 0] != t[0, 0]


def test_the_contrast_of_vectors_that_are_all_the_same_is_chance():
    objective = FlowObjective(small_model(), MEDM2G[4], FlowConfig(contrast=0.1))
    v = dict.fromkeys(("report", "xray"), torch.ones(9, 4))
    seen = torch.ones(9, 2, dtype=torch.bool)
    assert objective.contrast(v, seen).item() == pytest.approx(math.log(9))
    assert objective.contrast(v, ~seen).item() == 0


def test_medcodi_m_links_its_views_and_then_the_report_to_the_lateral_one():
    stages = medcodi_m("frontal", "lateral", "report")
    assert [stage.name for stage in stages] == [
        "frontal",
        "lateral",
        "report",
        "frontal-lateral",
        "lateral-report",
    ]
    assert [stage.trains for stage in stages] == ["flows"] * 3 + ["links"] * 2


def test_a_stage_that_cannot_be_trained_is_refused(tmp_path):
    data = small_data(10)
    with pytest.raises(Refusal, match=r"unknown flow 'xry' \(did you mean 'xray'\?\)"):
        train_flows(small_model(), data, [Stage("s", ("xry",), "flows")], SHORT, tmp_path, device=CPU)
    nobody = data._replace(presence=data.presence | {"ct": torch.zeros(10, dtype=torch.bool)})
    with pytest.raises(Refusal, match="stage 's': nobody has what it trains of ct, mri"):
        train_flows(small_model(), nobody, [Stage("s", ("ct", "mri"), "links")], SHORT, tmp_path, device=CPU)
    less = data._replace(latents={"xray": data.latents["xray"]})
    with pytest.raises(Refusal, match="stage 's': unknown modality 'ct'"):
        train_flows(small_model(), less, [Stage("s", ("ct",), "flows")], SHORT, tmp_path, device=CPU)
