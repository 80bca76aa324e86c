from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmdiff.spelling import canonical, did_you_mean, match, nearest

SPELLINGS = {
    "decomposed": ("Zo\u00eb", "Zoe\u0308"),
    "full width": ("P12", "Ｐ１２"),
    "no-break space": ("ward 3", "ward\u00a03"),
    "two blanks and a tab": ("ward 3", " ward \t3 "),
    "zero width": ("ward", "wa\u200brd\ufeff"),
    "zero width before an accent": ("Zo\u00eb", "Zoe\u200d\u0308"),
    "dash": ("A-12", "A\u201312"),
    "no-break hyphen": ("A-12", "A\u201112"),
    "minus": ("A-12", "A\u221212"),
    "apostrophe": ("O'Brien", "O\u2019Brien"),
    "a spreadsheet's number": ("12", "12.0"),
}


@pytest.mark.parametrize(("one", "other"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_spellings_of_one_name_are_one(one, other):
    assert canonical(one) == canonical(other) == one


def test_different_names_stay_different():
    names = ["AA", "Aa", "aa", "é", "e", "007", "7", "1.5", "1.50", "v1.0", "v1", "-1", "1", "a b", "ab", ""]
    assert len({canonical(name) for name in names}) == len(names)


@given(st.text())
def test_the_canonical_spelling_is_that_of_every_unicode_form(name):
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert canonical(unicodedata.normalize(form, name)) == canonical(name)
    assert canonical(canonical(name)) == canonical(name)


MATCHES = [
    ("AA", ("AA", "Aa", "aa"), "AA"),
    ("Aa", ("AA", "Aa", "aa"), "Aa"),
    ("aA", ("AA", "Aa", "aa"), None),
    ("aa", ("AA", "Aa"), None),
    ("f", ("F", "M"), "F"),
    ("k", ("K", "k"), "k"),
    ("1.0", ("0", "1"), "1"),
    ("1.0", ("1", "1.0"), "1.0"),
    ("m\u00e4nnlich", ("ma\u0308nnlich", "weiblich"), "ma\u0308nnlich"),
    ("MA\u0308NNLICH", ("m\u00e4nnlich", "weiblich"), "m\u00e4nnlich"),
    ("\u00e9", ("e\u0301", "\u00e9"), "\u00e9"),
    ("x", (), None),
    ("TRUE", ("true", "false"), "true"),
]


@pytest.mark.parametrize(("name", "choices", "meant"), MATCHES)
def test_a_name_is_matched_exactly_first_and_freely_only_where_one_is_meant(name, choices, meant):
    assert match(name, choices) == meant


@pytest.mark.parametrize(
    ("name", "choices", "close"),
    [
        ("lerning_rate", ("seed", "learning_rate"), "learning_rate"),
        ("CRP", ("crp", "wbc"), "crp"),  # as shouted in a spreadsheet
        ("crp_val", ("CRP_value", "age"), "CRP_value"),
        ("sodium", ("crp", "wbc"), None),
        ("x", (), None),
    ],
)
def test_a_hint_names_the_closest_whatever_the_case(name, choices, close):
    assert nearest(name, choices) == close
    assert did_you_mean(name, choices) == ("" if close is None else f" (did you mean {close!r}?)")
