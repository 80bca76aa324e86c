"""Words that name a diagnosis are found in any spelling, and leave no trace."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff.data.diagnosis_words import mask_diagnosis

NOTES = {
    "covid-19 positive, mild": "mild",
    "SARS-CoV-2 (2019-nCoV), COVID19; Covid 19.": ".",
    "novel coronavirus disease, Wuhan": "disease",
    "Severe Acute Respiratory Syndrome coronavirus": "",
    "Bronchopneumonia; S. pneumoniae, pneumonic": "",
    "PCP (Pneumocystis jirovecii) in HIV": "in HIV",
    "E. coli, E.Coli and Klebsiella pneumoniae": "and",
    "S. aureus, H. influenzae; L. pneumophila grew": "grew",
    "Positive RT-PCR in March 2020": "in March",
    "A real-time polymerase change reaction (PCR) was done": "A real-time was done",
    "Cough; she had a positive nasopharyngeal swab for COVID-19.": "Cough; she had a.",
    "Cough; positive test for SARS. Rest.": "Cough. Rest.",
    "Fever. Discussion: it was\nsarcoid.": "Fever.",
    "Discussion: all of it": "",
    "No findings": "",
    "The copper T, a flute, 39.5 degrees, tbc": "The copper T, a flute, 39.5 degrees, tbc",
    "fluid, influx, strap, stripe, coping": "fluid, influx, strap, stripe, coping",
    "Сор, тв и пневмоторакс": "Сор, тв и пневмоторакс",
    "Lung (left) – clear ; 10⁹/l , “ok” .": "Lung (left) – clear ; 10⁹/l , “ok” .",
}


@pytest.mark.parametrize(("note", "masked"), NOTES.items())
def test_diagnosis_words_leave_nothing_behind(note, masked):
    assert mask_diagnosis(note)[0] == masked
    assert (mask_diagnosis(note)[1] > 0) is (note != masked)


UNUSUAL = {
    **{f"U+{ord(dash):04X}": f"COVID{dash}19" for dash in "-‐‑‒–—―−﹣－⁃"},
    **{f"blank U+{ord(blank):04X}": f"COVID{blank}19" for blank in "\u00a0\u2009\u202f\u3000\t\n"},
    **{
        f"inside U+{ord(mark):04X}": f"COV{mark}ID-1{mark}9"
        for mark in "\u00ad\u200b\u200c\u200d\u2060\ufeff"
    },
    **{f"between by {mark}": f"COVID{mark}19" for mark in "/.:_?~"},
    "several dashes": "SARS–CoV–2",
    "the year before": "2019‐nCoV",
    "full-width": "ＣＯＶＩＤ－１９",
    "one full-width digit": "COVID-1９",
    "accent": "pneumonía",
    "accent apart": "pneumoni\u0301a",
    "accent at the end": "viral\u0301",
    "ligature": "ﬂu",
    "Cyrillic letters": "СОVID-19",
    "a Greek letter": "COVΙD-19",
    "Turkish capital": "İnfluenza",
    "Turkish small": "ınfluenza",
    "end of a line": "pneu-\nmonia",
    "end of a line, soft": "pneu\u00ad\nmonia".replace("\n", ""),
    "end of a line, since flattened": "pneu- monia",
    "end of a line in the number": "COVID-\n19",
    "possessive": "COVID-19’s",
    "footnote": "COVID-19²",
    "glued": "COVID-19positive",
    "adjective": "COVID-19–positive",
    "in brackets": "(COVID-19)",
    "in nested brackets": "[(2019-nCoV), SARS]",
    "in quotes": "“COVID-19”",
}


@pytest.mark.parametrize("word", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_diagnosis_words_are_found_however_they_are_spelled(word):
    assert mask_diagnosis(f"Fever é 10⁹, {word}; cough – dry")[0] == "Fever é 10⁹; cough – dry"
    assert mask_diagnosis(f"Fever, then {word}.")[0] == "Fever, then."
    assert mask_diagnosis(f"{word} Then fever")[0] == "Then fever"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(st.characters(), max_size=6),
            st.sampled_from(["covid", "‑19", "ﬂ", "u", "pneu-\n", "monia", " (", "), ", "\u0301", "İ", "．"]),
        )
    ).map("".join)
)
def test_masking_takes_away_and_adds_nothing(note):
    """But a blank where two words were apart; and what is masked is masked."""
    masked, words = mask_diagnosis(note)
    rest = iter(note)
    assert all(character in rest for character in masked if character != " ")
    assert words or masked == " ".join(note.replace("\ufdd0", " ").split())
