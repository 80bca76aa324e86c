"""One series from any subset of the others: what is read, what is drawn, what is refused."""

import itertools

import pytest
import torch

from robustmdiff.generation.latents.dct import BlockDCT
from robustmdiff.generation.latents.principal import PrincipalComponents
from robustmdiff.generation.translation import Draft
from robustmdiff.ops import philox_key
from robustmdiff.refusal import Refusal
from tests.generation.world import SERIES, draw_images, new_draft, new_translation

KEY = philox_key(1)
EVERY = ("T1w", "T2w", "PDw")
SUBSETS = [subset for k in (1, 2) for subset in itertools.combinations(("T1w", "T2w"), k)]


def held(*names: str, n: int = 3) -> torch.Tensor:
    return torch.tensor([name in names for name in SERIES]).expand(n, -1)


@pytest.fixture(scope="module")
def translation():
    return new_translation(EVERY)


@pytest.mark.parametrize("subset", SUBSETS, ids=" ".join)
def test_any_subset_of_the_sources_gives_a_mean_and_draws(translation, subset):
    images = {name: x for name, x in draw_images(3).items() if name in subset}
    assert translation.mean(images, "PDw").shape == (3, 1, 16, 16)
    draws = translation.sample(images, "PDw", draws=2, steps=1, key=KEY)
    assert draws.shape == (3, 2, 1, 16, 16)
    assert torch.isfinite(draws).all()


@pytest.mark.parametrize("subset", SUBSETS, ids=" ".join)
def test_what_is_absent_and_the_target_itself_are_never_read(translation, subset):
    images, present = draw_images(3), held(*subset, "PDw")
    poisoned = {name: x if name in subset else torch.full_like(x, torch.nan) for name, x in images.items()}
    del images["PDw"]
    expected = translation.mean(images, "PDw", held(*subset))
    assert torch.equal(translation.mean(poisoned, "PDw", held(*subset)), expected)
    images["PDw"] = torch.zeros(3, 1, 16, 16)  # of the target itself: shown or not, it is not looked at
    assert torch.equal(translation.mean(images, "PDw", present), expected)


def test_each_row_has_a_subset_of_its_own(translation):
    images = draw_images(3)
    present = torch.stack([held("T1w")[0], held("T2w")[0], held("T1w", "T2w")[0]])
    together = translation.mean(images, "PDw", present)
    for i, subset in enumerate([("T1w",), ("T2w",), ("T1w", "T2w")]):
        alone = translation.mean({name: images[name][i : i + 1] for name in subset}, "PDw")
        torch.testing.assert_close(together[i], alone[0], rtol=1e-4, atol=1e-5)


def test_each_target_is_told_apart(translation):
    """Of the same two sources present, T2w and PDw are made by one network that is told which."""
    images = {"T1w": draw_images(3)["T1w"]}
    draft = translation.draft
    z = [draft.asked(images, name, None).draft for name in ("T2w", "PDw")]
    assert not torch.allclose(*z)


def test_draws_belong_to_the_patient_and_not_to_the_batch(translation):
    images, rows = draw_images(4), torch.tensor([7, 2, 0, 5])
    drawn = {"draws": 2, "steps": 2, "key": KEY}
    together = translation.sample(images, "PDw", **drawn, row_ids=rows)
    assert torch.equal(translation.sample(images, "PDw", **drawn, row_ids=rows), together)
    alone = {name: x[2:3] for name, x in images.items()}
    one = translation.sample(alone, "PDw", **drawn, row_ids=rows[2:3])
    torch.testing.assert_close(one[0], together[2], rtol=1e-4, atol=1e-5)


def test_more_steps_draw_something_near(translation):
    """Heun's method is of second order: from 8 to 16 steps a draw moves less than from 1 to 2."""
    images = draw_images(3)
    by_steps = [translation.sample(images, "PDw", steps=s, key=KEY) for s in (1, 2, 8, 16)]
    assert (by_steps[3] - by_steps[2]).abs().max() < 0.2 * (by_steps[1] - by_steps[0]).abs().max()


def test_the_draft_is_the_mean_that_draws_go_around(translation):
    images = draw_images(2)
    assert torch.equal(translation.mean(images, "PDw"), translation.draft.mean(images, "PDw"))
    translation = new_translation()
    torch.nn.init.zeros_(translation.flow.network.leave[-1].weight)
    torch.nn.init.zeros_(translation.flow.network.leave[-1].bias)
    translation.flow.s.fill_(1e-6)
    draw = translation.sample(images, "PDw", steps=1, key=KEY)[:, 0]
    torch.testing.assert_close(draw, translation.mean(images, "PDw"), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "to", "message"),
    [
        (lambda i: {"mra": i["T1w"]}, "PDw", "there is no series 'mra', expected some of T1w, T2w, PDw"),
        (lambda i: {}, "PDw", "no images are given, expected some of T1w, T2w, PDw"),
        (lambda i: i, "CT", "to is 'CT', expected one of T1w, T2w, PDw"),
        (
            lambda i: {"PDw": i["PDw"]},
            "PDw",
            "row 0 has nothing that PDw can be made of, expected one of T1w, T2w",
        ),
        (lambda i: {"T1w": i["T1w"], "T2w": i["T2w"][:2]}, "PDw", "T2w has 2 images, expected 3, as T1w"),
        (
            lambda i: {"T1w": i["T1w"][:, :, :12]},
            "PDw",
            r"images are \[3, 1, 12, 16\], expected \[n, 1, 16, 16\]",
        ),
        (lambda i: {"T1w": i["T1w"] / 0}, "PDw", "image 0 has a value that is NaN or infinite"),
    ],
)
def test_images_that_it_cannot_use_are_refused(translation, change, to, message):
    with pytest.raises(Refusal, match=message):
        translation.mean(change(draw_images(3)), to)


def test_a_wrong_presence_is_refused(translation):
    images = draw_images(3)
    with pytest.raises(Refusal, match=r"present is \[2, 3\], expected \[3, 3\]"):
        translation.mean(images, "PDw", held("T1w", n=2))
    del images["T2w"]
    with pytest.raises(Refusal, match="series 'T2w' is said to be present, but no images of it are given"):
        translation.mean(images, "PDw", held("T1w", "T2w"))
    with pytest.raises(Refusal, match="row 1 has nothing that PDw can be made of"):
        translation.mean(
            images,
            "PDw",
            torch.tensor([[True, False, False], [False, False, True], [True, False, True]]),
        )


@pytest.mark.parametrize("name", ["draws", "steps"])
def test_no_draws_and_no_steps_are_refused(translation, name):
    with pytest.raises(Refusal, match=f"{name} is 0, expected at least 1"):
        translation.sample(draw_images(2), "PDw", key=KEY, **{name: 0})


@pytest.mark.parametrize(
    ("latents", "targets", "message"),
    [
        ({"a": BlockDCT((1, 8, 8))}, ("a",), "series are a, expected at least two"),
        ({"a": BlockDCT((1, 8, 8)), "b": BlockDCT((1, 8, 8))}, (), "targets is empty"),
        (
            {"a": BlockDCT((1, 8, 8)), "b": BlockDCT((1, 8, 8))},
            ("c",),
            "target 'c' is no series, expected one of a, b",
        ),
        (
            {"a": BlockDCT((1, 8, 8)), "b": BlockDCT((1, 16, 8))},
            ("a",),
            r"the latent of b is a grid of \[4, 2\], expected \[2, 2\], that of a",
        ),
        (
            {"a": BlockDCT((1, 8, 8)), "b": PrincipalComponents((1, 8, 8), 5)},
            ("a",),
            r"the latent of b is \[5\], expected a grid",
        ),
        (
            {"a": BlockDCT((1, 8, 8)), "b": BlockDCT((3, 8, 8))},
            ("a", "b"),
            "target b has latents of 48 channels, expected 16, as a",
        ),
    ],
)
def test_series_that_do_not_lie_side_by_side_are_refused(latents, targets, message):
    with pytest.raises(Refusal, match=message):
        Draft(latents, targets)


def test_series_may_have_other_numbers_of_channels_than_the_target():
    draft = Draft({"ct": BlockDCT((3, 8, 8)), "mri": BlockDCT((1, 8, 8))}, ("mri",), widths=(8, 8))
    assert draft.mean({"ct": torch.zeros(2, 3, 8, 8)}, "mri").shape == (2, 1, 8, 8)


def test_a_latent_space_is_not_trained():
    assert not any(p.requires_grad for p in new_draft().latents.parameters())
