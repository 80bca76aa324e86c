"""Distances of sets: closed forms of Gaussians, definitions in float64, and copies that are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from robustmdiff.evaluation.generated.extractor import Extractor, of_judge, of_torchscript
from robustmdiff.evaluation.generated.image_sets import (
    frechet_distance,
    kernel_distance,
    memorisation,
    nearest,
)
from robustmdiff.evaluation.generated.judge import Judge
from robustmdiff.refusal import Refusal

FIRST_FIVE = Extractor("five pixels", "0" * 64, lambda images: images.flatten(1)[:, :5].tanh())
FIVE = Extractor("five pixels as they are", "1" * 64, lambda images: images.flatten(1)[:, :5])


def images(n: int, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64) * 0.3 + shift


def people(n: int) -> list[str]:
    return [f"p{i // 2}" for i in range(n)]


def test_fid_is_the_frechet_distance_of_two_gaussians():
    g, r = images(90, 0.1, seed=1), images(80)
    found = frechet_distance(g, r, FIRST_FIVE, people(80))
    a, b = (FIRST_FIVE(x).numpy() for x in (g, r))
    s, t = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert found.value == pytest.approx(expected, rel=1e-8)
    assert (found.real, found.generated, found.sd) == (80, 90, 0)
    assert found.extractor == "five pixels 000000000000"


def test_a_shift_of_many_images_is_the_fid():
    found = frechet_distance(images(4000, 0.5, seed=1), images(4000), FIVE, people(4000))
    assert found.value == pytest.approx(5 * 0.5**2, rel=0.05)
    assert found.halves < 0.01  # of real images from real ones


def kernel_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate of Binkowski et al. 2018, equation 4, with k(x, y) = (x y / d + 1)^3."""

    def k(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        return (k(x, x).sum() - np.trace(k(x, x))) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * k(a, b).mean()


def test_kid_is_the_unbiased_mmd_of_its_subsets():
    g, r = images(20, 0.4, seed=1), images(40)
    found = kernel_distance(g, r, FIVE, people(40))  # subsets of 20: all of g, half of r
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = []
        for _ in range(20):
            half = torch.randperm(40)[:20]
            torch.randperm(20)
            drawn.append(kernel_mmd(FIVE(g).numpy(), FIVE(r)[half].numpy()))
    assert found.value == pytest.approx(np.mean(drawn), rel=1e-9)
    assert found.sd == pytest.approx(np.std(drawn), rel=1e-9)


def test_kid_of_the_same_distribution_is_nothing_beside_its_noise():
    same = kernel_distance(images(400, seed=1), images(400), FIVE, people(400))
    other = kernel_distance(images(400, 0.2, seed=1), images(400), FIVE, people(400))
    assert abs(same.value) < 3 * same.halves_sd
    assert abs(same.halves) < 3 * same.halves_sd
    assert other.value > 10 * other.halves_sd


def test_kid_leaves_the_global_generator_alone_and_repeats_itself():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = kernel_distance(images(30, seed=1), images(40), FIVE, people(40))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert kernel_distance(images(30, seed=1), images(40), FIVE, people(40)) == first


def test_halves_are_of_whole_patients():
    # Each patient has two equal images: halved by image, the halves would share them.
    r = images(20).repeat_interleave(2, dim=0)
    by_patient = kernel_distance(r, r, FIVE, people(40))
    by_image = kernel_distance(r, r, FIVE, [str(i) for i in range(40)])
    assert by_patient.halves_sd > 1.2 * by_image.halves_sd


def test_fid_of_fewer_images_than_features_is_refused():
    with pytest.raises(Refusal, match=r"FID of 90 generated and 10 real images.*5 features: expected more"):
        frechet_distance(images(90), images(10), FIVE, people(10))
    with pytest.raises(Refusal, match="FID of 5 generated"):
        frechet_distance(images(5), images(90), FIVE, people(90))


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_what_cannot_be_compared_is_refused(distance):
    broken = images(40)
    broken[3] = math.nan
    with pytest.raises(ValueError, match="images hold NaN"):
        distance(broken, images(40), FIVE, people(40))
    with pytest.raises(ValueError, match=r"images are \[40, 4, 4\], expected"):
        distance(images(40)[:, 0], images(40), FIVE, people(40))
    with pytest.raises(ValueError, match="people are 39, expected 40"):
        distance(images(40), images(40), FIVE, people(39))
    with pytest.raises(Refusal, match="of 1 patient, expected at least 2"):
        distance(images(40), images(40), FIVE, ["p"] * 40)


def test_one_image_has_no_kid():
    with pytest.raises(Refusal, match="KID of 1 generated and 40 real images: expected at least 2"):
        kernel_distance(images(1), images(40), FIVE, people(40))


def test_constant_images_have_a_distance_from_real_ones_and_none_from_each_other():
    flat, real = torch.zeros(40, 1, 4, 4, dtype=torch.float64), images(40)
    assert frechet_distance(flat, flat, FIVE, people(40)).value == pytest.approx(0, abs=1e-12)
    assert frechet_distance(flat, real, FIVE, people(40)).value == pytest.approx(
        float(FIVE(real).mean(0).square().sum() + FIVE(real).var(0).sum())
    )
    assert kernel_distance(flat, flat, FIVE, people(40)).value == pytest.approx(0, abs=1e-12)


def test_copies_of_training_images_are_found():
    train, new = images(50), images(60, seed=1)
    found = memorisation(torch.cat([train[[7, 3]], images(58, seed=2)]), new, train, lambda x: x)
    assert found.generated[:2].tolist() == [0, 0]
    assert found.nearest[:2].tolist() == [7, 3]
    expected = [min(float((a - b).norm()) for b in train) for a in new[:4]]
    assert found.new[:4] == pytest.approx(expected)
    assert found.copied == pytest.approx(2 / 60, abs=1.5 / 60)


def test_smooth_images_seem_copies_unless_all_pass_through_the_same_latent():
    def smooth(x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3), keepdim=True).expand_as(x)

    generated, new, train = smooth(images(100, seed=2)), images(100, seed=1), images(100)
    assert memorisation(generated, new, train, lambda x: x).copied > 0.3
    assert memorisation(generated, new, train, smooth).copied < 0.1


def test_neighbours_of_nothing_are_refused():
    with pytest.raises(ValueError, match=r"query is \[3, 2\] and bank \[4, 3\]"):
        nearest(torch.zeros(3, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="bank holds NaN"):
        nearest(torch.zeros(3, 2), torch.full((1, 2), math.nan))


def test_an_extractor_is_known_by_its_weights():
    torch.manual_seed(0)
    judge = Judge(("a", "b"), (1, 16, 16))
    before = of_judge(judge)
    assert before(torch.zeros(3, 1, 16, 16)).shape == (3, 64)
    with torch.no_grad():
        judge.head.bias[0] += 1e-3
    assert of_judge(judge).sha256 != before.sha256


class Means(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_a_torchscript_network_sees_its_own_size_channels_and_window(tmp_path):
    torch.jit.script(Means()).save(tmp_path / "means.pt")
    extractor = of_torchscript(tmp_path / "means.pt", size=8, channels=3, window=(-1024, 1024))
    assert extractor(torch.full((2, 1, 5, 5), 0.5)).tolist() == [[512.0] * 3] * 2
    assert extractor.name == "means.pt"
    assert len(extractor.sha256) == 64
    with pytest.raises(ValueError, match="images have 2 channels, expected 1 or 3"):
        extractor(torch.zeros(2, 2, 5, 5))


def test_a_file_that_is_no_network_is_refused(tmp_path):
    with pytest.raises(Refusal, match="there is no such file"):
        of_torchscript(tmp_path / "inception.pt", size=299, channels=3)
    (tmp_path / "inception.pt").write_bytes(b"weights")
    with pytest.raises(Refusal, match="is no TorchScript network"):
        of_torchscript(tmp_path / "inception.pt", size=299, channels=3)
