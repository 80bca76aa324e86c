"""Texts against texts: values counted by hand and definitions written out."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff.evaluation.generated.texts import bleu, distinct, rouge_l, words


def test_words_are_lower_cased_and_punctuation_counts():
    assert words("Imaging: Right-sided fluid, no CO2.") == [
        "imaging", ":", "right-sided", "fluid", ",", "no", "co2", ".",
    ]  # fmt: skip


def longest_common(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + longest_common(a[:-1], b[:-1])
    return max(longest_common(a[:-1], b), longest_common(a, b[:-1]))


def test_rouge_l_counted_by_hand():
    # common, in order: lung mass .  (3 of 6 and of 5 words)
    found = rouge_l(["Fever, no lung mass.", ""], ["lung oedema, mass.", "fever"])
    precision, recall = 3 / 6, 3 / 5
    assert found == pytest.approx([2 * precision * recall / (precision + recall), 0], abs=1e-7)


letters = st.lists(st.sampled_from("abc,"), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(letters, letters)
def test_rouge_l_is_f1_of_the_longest_common_subsequence(a, b):
    common = longest_common(a, b)
    assert rouge_l([" ".join(a)], [" ".join(b)])[0] == pytest.approx(2 * common / (len(a) + len(b)), abs=1e-7)


def papineni(generated: list[list[str]], real: list[list[str]], n: int) -> float:
    log = 0.0
    for order in range(1, n + 1):
        hits = total = 0
        for g, r in zip(generated, real, strict=True):
            said, meant = (
                Counter(tuple(text[k : k + order]) for k in range(len(text) - order + 1)) for text in (g, r)
            )
            hits += sum(min(count, meant[gram]) for gram, count in said.items())
            total += sum(said.values())
        if hits == 0:
            return 0.0
        log += math.log(hits / total) / n
    long, short = sum(map(len, real)), sum(map(len, generated))
    return math.exp(log + min(0.0, 1 - long / short))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(letters, letters), min_size=1, max_size=3))
def test_bleu_is_that_of_the_whole_corpus(pairs):
    generated, real = [list(a) for a, _ in pairs], [list(b) for _, b in pairs]
    found = bleu([" ".join(g) for g in generated], [" ".join(r) for r in real])
    assert found == pytest.approx([papineni(generated, real, n) for n in (1, 2, 3, 4)], abs=1e-6)


def test_a_copy_scores_one_and_another_alphabet_nothing():
    texts = ["fever, lung mass.", "lungs clear, wild type."]
    assert bleu(texts, texts) == pytest.approx([1, 1, 1, 1])
    assert rouge_l(texts, texts) == pytest.approx([1, 1])
    assert bleu(["x y"] * 2, texts) == (0, 0, 0, 0)


def test_distinct_is_the_share_of_different_texts():
    assert distinct(["Fever.", "fever .", "no fever.", "fever."]) == 0.5
    assert distinct([""]) == 1


@pytest.mark.parametrize("measure", [rouge_l, bleu])
def test_texts_that_do_not_match_are_refused(measure):
    with pytest.raises(ValueError, match="2 generated and 1 real texts, expected the same number"):
        measure(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 generated and 0 real texts"):
        measure([], [])
    with pytest.raises(ValueError, match="got a single text"):
        measure("abc", "abc")


def test_no_texts_are_not_distinct():
    with pytest.raises(ValueError, match="0 generated"):
        distinct([])


def test_one_text_is_enough():
    assert np.isfinite(rouge_l(["a"], ["b"])).all()
    assert bleu(["a"], ["a"]) == (1, 0, 0, 0)  # it has no pair of words
