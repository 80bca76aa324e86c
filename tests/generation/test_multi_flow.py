"""Flows that step together: who reads whom, from which noise, told what."""

import pytest
import torch

from robustmdiff.generation.guidance import PromptMixing, draw_prompts
from robustmdiff.generation.process import PROCESSES
from robustmdiff.ops import philox_key
from robustmdiff.refusal import Refusal
from tests.generation.flows import SHAPES, D, small_data, small_model

KEY = philox_key(11)


def velocities(model, x, t=0.4, seen=None):
    t = torch.tensor(t)
    n = len(next(iter(x.values())))
    c = model.told(torch.zeros(n, len(SHAPES), D), torch.zeros(n, len(SHAPES), dtype=torch.bool), x)
    v = model.environments(x, dict.fromkeys(x, t))
    with torch.no_grad():
        return model.velocity(x, t, c, v, seen)


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("changed", list(SHAPES))
def test_changing_one_flow_changes_the_others(changed):
    model, x = small_model(), small_data(6).latents
    other = x | {changed: x[changed] + 1}
    assert moved(velocities(model, x), velocities(model, other)) == set(SHAPES)


def test_were_each_flow_to_read_its_own_vector_nothing_would_pass_between_them():
    model, x = small_model(), small_data(6).latents
    model.read_by = lambda name, flows: [name]  # as the public code of CoDi has it
    assert moved(velocities(model, x), velocities(model, x | {"ct": x["ct"] + 1})) == {"ct"}


def test_a_flows_own_vector_never_enters_it():
    model, x = small_model(), small_data(6).latents
    before = velocities(model, x)
    torch.nn.init.normal_(model.flow("mri").environment.leave.weight)
    assert moved(before, velocities(model, x)) == set(SHAPES) - {"mri"}


def test_with_gates_of_0_the_flows_are_independent():
    model, x = small_model(), small_data(6).latents
    for name in SHAPES:
        torch.nn.init.zeros_(model.flow(name).gates)
    together = velocities(model, x)
    for name in SHAPES:
        assert torch.equal(together[name], velocities(model, {name: x[name]})[name])


def test_rows_that_are_not_to_be_read_are_not():
    model, x = small_model(), small_data(6).latents
    seen = {name: torch.arange(6) % 2 == 0 for name in SHAPES}
    some, nobody = velocities(model, x, seen=seen), {n: velocities(model, {n: x[n]})[n] for n in SHAPES}
    for name in SHAPES:
        torch.testing.assert_close(some[name][1::2], nobody[name][1::2])
        assert not torch.allclose(some[name][::2], nobody[name][::2])


def test_image_flows_share_their_sublayers_and_the_text_flow_has_its_own():
    sharing = small_model().sharing
    assert sharing["xray"] == sharing["ct"]
    assert len({sharing[name] for name in ("xray", "mri", "report")}) == 3  # a grid has other widths


@pytest.mark.parametrize(
    ("process", "sampler"), [(each.name, sampler) for each in PROCESSES.values() for sampler in each.samplers]
)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_row_depends_on_its_id_alone_and_not_on_its_batch_mates(process, sampler, steps):
    model, data, ids = small_model(process=process), small_data(6), torch.tensor([4, 9, 2, 7, 1, 30])
    how = {"key": KEY, "sampler": sampler, "steps": steps, "guidance": 2.0}
    whole = model.sample(list(SHAPES), data.h, data.m, row_ids=ids, **how)
    part = model.sample(list(SHAPES), data.h[2:4], data.m[2:4], row_ids=ids[2:4], **how)
    for name, shape in SHAPES.items():
        assert whole[name].shape == (6, *shape)
        torch.testing.assert_close(whole[name][2:4], part[name], atol=2e-5, rtol=1e-5)


def test_a_modality_starts_from_the_same_noise_whatever_else_is_generated():
    model, data = small_model(), small_data(6)
    for name in SHAPES:
        torch.nn.init.zeros_(model.flow(name).gates)  # what is left of the others is their noise
    alone = model.sample(["ct"], data.h, data.m, key=KEY)["ct"]
    together = model.sample(["report", "ct", "xray"], data.h, data.m, key=KEY)
    torch.testing.assert_close(together["ct"], alone)
    assert not torch.allclose(together["ct"], together["xray"])


def test_guidance_of_0_and_1_are_one_evaluation_and_exactly_nothing_and_what_is_asked(monkeypatch):
    model, data = small_model(), small_data(6)
    asked, calls = [], []
    told, velocity = model.told, model.velocity

    def noting_told(*arguments):
        asked.append(told(*arguments))
        return asked[-1]

    def noting_velocity(*arguments):
        calls.append(arguments[2])
        return velocity(*arguments)

    monkeypatch.setattr(model, "told", noting_told)
    monkeypatch.setattr(model, "velocity", noting_velocity)
    for guidance, evaluations in ((0, 1), (1, 1), (3, 2)):
        asked.clear()
        calls.clear()
        out = model.sample(["xray"], data.h, data.m, key=KEY, steps=1, guidance=guidance)
        assert len(calls) == evaluations
        if evaluations == 1:
            assert calls[0] is asked[1 - guidance]
        else:
            by_hand = {
                g: model.sample(["xray"], data.h, data.m, key=KEY, steps=1, guidance=g) for g in (0, 1)
            }
            u, c = (by_hand[g]["xray"] for g in (0, 1))
            torch.testing.assert_close(out["xray"], u + 3 * (c - u), atol=1e-5, rtol=1e-5)


def test_what_is_known_is_read_and_not_generated():
    model, data = small_model(), small_data(6)
    known = {"report": data.latents["report"]}
    one = model.sample(["xray", "mri"], data.h, data.m, key=KEY, known=known)
    other = model.sample(["xray", "mri"], data.h, data.m, key=KEY, known={"report": known["report"] + 1})
    assert set(one) == {"xray", "mri"}
    assert moved(one, other) == {"xray", "mri"}


def test_without_prompts_guidance_changes_nothing():
    model, data = small_model(), small_data(6)
    nobody = torch.zeros_like(data.m)
    one, two = (model.sample(["ct"], data.h, nobody, key=KEY, guidance=g)["ct"] for g in (1.0, 4.0))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"to": ["xry"]}, r"unknown flow 'xry' \(did you mean 'xray'\?\)"),
        ({"to": []}, "to is empty, expected at least one of xray, ct, mri, report"),
        ({"to": ["ct", "ct"]}, "'ct' is asked for twice"),
        ({"to": ["ct"], "known": {"ct": torch.zeros(6, 5)}}, "'ct' is asked for twice, or known as well"),
        ({"to": ["ct"], "steps": 0}, "steps is 0, expected at least 1"),
        ({"to": ["ct"], "sampler": "ddpm"}, "unknown sampler 'ddpm'"),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_a_sentence(asked, sentence):
    data = small_data(6)
    with pytest.raises(Refusal, match=sentence):
        small_model().sample(h=data.h, m=data.m, key=KEY, **asked)


def test_a_diffusion_has_no_more_steps_than_its_schedule_and_no_sampler_of_flows():
    model, data = small_model(process="cosine"), small_data(6)
    with pytest.raises(Refusal, match="steps is 1001, expected at most 1000, those of the schedule"):
        model.sample(["ct"], data.h, data.m, key=KEY, steps=1001)
    with pytest.raises(Refusal, match="unknown sampler 'heun', expected one of ddim, ddpm, dpmpp_2m"):
        model.sample(["ct"], data.h, data.m, key=KEY, sampler="heun")
    with pytest.raises(Refusal, match="unknown process 'cosin'"):
        small_model(process="cosin")


def test_a_known_latent_of_another_shape_and_a_flow_of_no_modality_are_named():
    data = small_data(6)
    with pytest.raises(ValueError, match=r"known 'ct' is \[6, 4\], expected \[6, 5\]"):
        small_model().sample(["xray"], data.h, data.m, key=KEY, known={"ct": torch.zeros(6, 4)})
    with pytest.raises(Refusal, match=r"unknown modality 'rapport' \(did you mean 'report'\?\)"):
        small_model({"rapport": (3,)})


def test_prompts_are_mixed_by_softmax_over_those_present_and_null_ones_are_of_their_kind():
    torch.manual_seed(0)
    mixing = PromptMixing(["image", "image", "text"], 4)
    torch.nn.init.normal_(mixing.g), torch.nn.init.normal_(mixing.nothing)
    h = torch.randn(4, 3, 4)
    m = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]]).bool()
    h[1, 0] = torch.nan  # absent: never read
    c = mixing(h, m) / 2
    e = mixing.g.exp()
    torch.testing.assert_close(c[0], (e[:, None] * h[0]).sum(0) / e.sum())
    torch.testing.assert_close(c[1], (e[1:, None] * h[1, 1:]).sum(0) / e[1:].sum())
    torch.testing.assert_close(c[2], h[2, 2])
    torch.testing.assert_close(c[3], mixing.nothing)
    null = mixing(h, m, torch.ones(4, dtype=torch.bool)) / 2
    image, text = mixing.null
    torch.testing.assert_close(null[2], text)
    torch.testing.assert_close(null[1], (e[1] * image + e[2] * text) / (e[1] + e[2]))
    torch.testing.assert_close(null[3], mixing.nothing)
    c.sum().backward()
    assert all(p.grad.isfinite().all() for p in mixing.parameters() if p.grad is not None)


def test_of_two_prompts_the_first_the_second_and_both_are_drawn_a_third_of_the_time_each():
    n = 9000
    u = torch.rand(n, 4, generator=torch.Generator().manual_seed(0))
    drawn = draw_prompts(torch.tensor([True, False, True]).expand(n, -1), u)
    assert not drawn[:, 1].any()
    shares = [(drawn[:, 0] == a)[drawn[:, 2] == b].sum() / n for a, b in ((1, 0), (0, 1), (1, 1))]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)  # 4 standard deviations
    only = draw_prompts(torch.tensor([False, True, False]).expand(n, -1), u)
    assert torch.equal(only, torch.tensor([False, True, False]).expand(n, -1))
    assert not draw_prompts(torch.zeros(n, 3, dtype=torch.bool), u).any()
