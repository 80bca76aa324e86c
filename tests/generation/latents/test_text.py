"""The latent of texts keeps the findings, and has an answer for whatever is written."""

from __future__ import annotations

import warnings

import pytest
import torch

from robustmdiff.generation.latents.saved import load_latent, save_latent
from robustmdiff.generation.latents.text import TextLatent, fewest_errors
from robustmdiff.refusal import Refusal
from tests.generation.latents.reports import draw_reports, f1, findings

TEXTS, SAID = draw_reports(600, seed=0)


@pytest.fixture(scope="module")
def latent() -> TextLatent:
    return TextLatent.fit(TEXTS)


def test_the_grammar_that_judges_reads_what_was_written():
    assert f1(SAID, findings(TEXTS)) > 0.99


def test_the_findings_survive_and_training_texts_alone_taught_it(latent):
    texts, said = draw_reports(150, seed=1)
    assert f1(said, findings(latent.decode(latent.encode(texts)))) > 0.95


def test_more_numbers_keep_more():
    texts, said = draw_reports(150, seed=1)
    small = TextLatent.fit(TEXTS, k=16)
    assert f1(said, findings(small.decode(small.encode(texts)))) < 0.9


def test_z_is_of_unit_size_and_small_errors_change_little(latent):
    z = latent.encode(TEXTS)
    torch.testing.assert_close(torch.cov(z.T), torch.eye(64), atol=0.05, rtol=0)
    noisy = z + 0.3 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    assert f1(SAID, findings(latent.decode(noisy))) > 0.95


def test_whatever_z_is_the_words_are_those_of_training_texts(latent):
    known = {word for text in TEXTS for word in text.lower().replace(",", "").replace(".", "").split()}
    for text in latent.decode(3 * torch.randn(50, 64, generator=torch.Generator().manual_seed(0))):
        assert set(text.lower().replace(",", "").replace(".", "").split()) <= known


def test_an_empty_text_is_a_bag_of_nothing(latent):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        z = latent.encode(["", "  \n"])
    torch.testing.assert_close(z[0], z[1])
    assert not latent.bag([""]).any()
    assert not findings(latent.decode(z)).any()


def test_a_text_of_no_known_words_reads_as_an_empty_one_and_says_so(latent):
    with pytest.warns(UserWarning, match="text 1 has no known phrase: it is read as an empty one"):
        z = latent.encode([TEXTS[0], "qwerty [PAD] 肺炎"])
    assert torch.allclose(z[1], latent.encode([""])[0], atol=1e-5)


def test_an_over_long_text_is_cut_where_the_warning_says():
    latent = TextLatent.fit(["Note: cyst, nodule, mass."] * 3, k=2, max_words=3)
    with pytest.warns(
        UserWarning, match=r"text 0 has 4 words: it is read up to word 3, 'cyst,', character 18"
    ):
        bag = latent.bag(["Note: nodule cyst, mass"])
    assert [latent.phrases.known[i].words for i in bag[0].nonzero()[:, 0]] == ["cyst"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert latent.bag(["Note: nodule, mass"]).sum() == 2  # as long as may be


def test_no_text_is_an_answer(latent):
    assert latent.encode([]).shape == (0, 64)
    assert latent.decode(torch.zeros(0, 64)) == []


def test_texts_that_share_nothing_are_refused():
    with pytest.raises(Refusal, match="no phrase stands in min_count = 3 of 2 texts, expected at least one"):
        TextLatent.fit(["a cyst", "a nodule"])


def test_latents_of_another_shape_are_refused(latent):
    with pytest.raises(ValueError, match=r"z is \[1, 63\], expected \[n, 64\]"):
        latent.decode(torch.zeros(1, 63))


def test_texts_that_are_all_alike_are_written_as_they_are():
    latent = TextLatent.fit(["Note: cyst, nodule."] * 3, k=2)
    assert latent.decode(torch.randn(2, 2)) == ["Note: cyst, nodule."] * 2


def test_a_saved_latent_writes_as_it_did(latent, tmp_path):
    save_latent(latent, tmp_path)
    again = load_latent(tmp_path)
    assert isinstance(again, TextLatent)
    z = latent.encode(TEXTS[:9])
    assert torch.equal(again.encode(TEXTS[:9]), z)
    assert again.decode(z) == latent.decode(z)


def test_a_vote_is_the_mean_of_scores(latent):
    z = latent.encode(TEXTS[:4])
    vote = latent.scores(z[:1].expand(3, -1)).mean(dim=0, keepdim=True)
    assert latent.write(vote) == latent.decode(z[:1])


def test_fewest_errors_is_what_trying_every_threshold_finds():
    g = torch.Generator().manual_seed(0)
    target = torch.rand(40, 7, generator=g) < 0.4
    scores = 0.5 * target + torch.rand(40, 7, generator=g)

    def errors(threshold: torch.Tensor) -> torch.Tensor:
        return ((scores > threshold) != target).sum(dim=0)

    tried = torch.stack([errors(scores[i] - 1e-6) for i in range(40)] + [errors(torch.full((7,), 9.0))])
    assert torch.equal(errors(fewest_errors(scores, target)), tried.min(dim=0).values)
