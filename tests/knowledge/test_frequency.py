"""Words, counts and percentages become the fractions that their sources define."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmdiff.knowledge.frequency import (
    BAND_WORDS,
    BANDS,
    Counted,
    annotated_fraction,
    band_fraction,
    pooled,
)


def test_bands_are_disjoint_and_fall_from_always_to_never():
    for higher, lower in itertools.pairwise(BANDS):
        assert lower.low <= lower.high < higher.low <= higher.high


@pytest.mark.parametrize(
    ("text", "fraction"),
    [
        ("Obligate (100%)", 1.0),
        ("Very frequent (99-80%)", (0.99 + 0.80) / 2),
        ("Frequent (79-30%)", (0.79 + 0.30) / 2),
        ("Occasional (29-5%)", (0.29 + 0.05) / 2),
        ("Very rare (<4-1%)", (0.04 + 0.01) / 2),
        ("Excluded (0%)", 0.0),
        ("HP:0040283", 0.17),
        ("very frequent", 0.895),
    ],
)
def test_a_band_stands_for_its_midpoint(text, fraction):
    assert band_fraction(text) == pytest.approx(fraction, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "fraction"),
    [
        ("3/7", 3 / 7),
        ("9 of 22", 9 / 22),
        ("0/19", 0.0),
        ("45%", 0.45),
        ("35 %", 0.35),
        ("7.5000 %", 0.075),
        ("4-12%", 0.08),
        ("50%-90%", 0.7),
        ("HP:0040281", 0.895),
        ("hallmark", 0.9),
        ("Very rare", 0.01),
        ("occasional", 0.075),
        (" typical ", 0.5),
    ],
)
def test_an_annotated_frequency_is_read(text, fraction):
    assert annotated_fraction(text) == pytest.approx(fraction, abs=1e-12)


@pytest.mark.parametrize("text", ["", "variable"])
def test_a_frequency_without_a_number_is_unknown(text):
    assert math.isnan(annotated_fraction(text))


@pytest.mark.parametrize("text", ["often", "8/7", "3/0", "130%", "-5%", "HP:0040299", "12"])
def test_a_frequency_that_makes_no_sense_is_refused_by_name(text):
    with pytest.raises(ValueError, match=f"frequency '{text}', expected"):
        annotated_fraction(text)


def test_an_unknown_band_is_refused_with_the_bands_there_are():
    with pytest.raises(ValueError, match=r"frequency 'Often \(50%\)', expected one of \['Obligate'"):
        band_fraction("Often (50%)")


def test_a_word_means_what_it_meant_in_its_time():
    assert annotated_fraction("Frequent") == 0.33
    assert annotated_fraction("Frequent", BAND_WORDS) == pytest.approx(0.545)
    with pytest.raises(ValueError, match="frequency 'hallmark', expected"):
        annotated_fraction("hallmark", BAND_WORDS)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)).map(lambda c: (min(c), c[1])), min_size=1))
def test_counts_pool_to_one_count_in_any_order(counts):
    seen, patients = sum(n for n, _ in counts), sum(m for _, m in counts)
    stated = [annotated_fraction(f"{n}/{m}") for n, m in counts]
    assert pooled(stated) == pooled(stated[::-1]) == seen / patients
    assert pooled([*stated, math.nan]) == seen / patients
    assert pooled([*stated, 0.5]) == (seen / patients + 0.5) / 2
    assert math.isnan(pooled([]))
    assert math.isnan(pooled([math.nan]))


def test_a_count_is_its_fraction_and_remembers_the_patients():
    three_of_four = annotated_fraction("3/4")
    assert isinstance(three_of_four, Counted)
    assert (three_of_four, three_of_four.seen, three_of_four.patients) == (0.75, 3, 4)
