"""Takes the answer out of a note: notes of teaching files name the diagnosis they teach."""

from __future__ import annotations

import re

# By node of the finding path, so that a test can ask for a label's own words. Each pattern is
# anchored at a word's start and takes the word with its endings.
WORDS: dict[str, str] = {
    "Pneumonia": r"(?:broncho|pleuro)?pneumoni\w*|cryptogenic organi[sz]ing|COP|BOOP|eosinophilic"
    r"|organi[sz]ing",
    "Viral": r"(?:anti)?virus\w*|(?:retro|anti)?viral\w*|RNA",
    "Bacterial": r"bacteri\w*",
    "Fungal": r"fung\w*|mycosis|mycoses",
    "COVID-19": r"(?:2019[-\s]*)?(?:n-?cov|covid)\w*(?:[-\s]*(?:19|2019))?"
    r"|(?:novel\s+)?corona\w*(?:\s*virus\w*)?"
    r"|cov-?2|wuhan|hubei|pandemic\w*|epidemi\w*|endemic|quarantin\w*|outbreak\w*|lockdown",
    "SARS": r"sars\w*(?:[-\s]*cov\w*)?(?:[-\s]*2)?|severe acute respiratory syndrome\w*",
    "MERS-CoV": r"mers(?:[-\s]*cov\w*)?|middle east\w* respiratory syndrome",
    "Influenza": r"(?:para)?influenza\w*|flu|h1n1|h5n1|h7n9|swine",
    "Varicella": r"varicell\w*|chicken\s*pox|zoster|vzv",
    "Herpes": r"herpe\w*|hsv",
    "Pneumocystis": r"pneumoc[iy]st\w*|p\.?\s*jirove?ci+|jirove?ci+|p\.?\s*carinii|carinii|pcp|pjp",
    "Streptococcus": r"strep\w*|pneumococc\w*",
    "Staphylococcus": r"staph\w*|mrsa",
    "Klebsiella": r"klebsiell\w*|friedl[aä]nder\w*",
    "Legionella": r"legionn?[ea]\w*",
    "Mycoplasma": r"mycoplasm\w*",
    "Chlamydophila": r"chlam[yi]d\w*|psittac\w*",
    "E.Coli": r"e\.?\s*coli|escherichia\w*",
    "Nocardia": r"nocard\w*",
    "Aspergillosis": r"aspergill\w*",
    "Tuberculosis": r"tubercul\w*|tb|mycobacteri\w*",
    "Lipoid": r"lip(?:o)?id\w*|mineral oil|paraffin\w*",
    "Aspiration": r"aspirat\w*",
    "ARDS": r"ards|acute respiratory distress(?: syndrome)?",
    "No Finding": r"no findings?",
    # Not a diagnosis, but its name: the test that proved it, and the year of the epidemic.
    "": r"(?:rt-?)?pcr|polymerase chain reaction|https?://\S+|(?:19|20)\d\d",
}
_DIAGNOSIS = re.compile(rf"(?<![^\W_])(?:{'|'.join(WORDS.values())})(?![^\W_])", re.IGNORECASE)
_DISCUSSION = re.compile(r"\bdiscussion\s*:.*", re.IGNORECASE | re.DOTALL)


def mask_diagnosis(note: str) -> tuple[str, int]:
    """The note without diagnosis words, and how many were taken out.

    Nothing stands where a word was: a mark would tell that there was something to hide. A
    closing "Discussion:" goes as a whole; it is written with the diagnosis in hand. A note
    that loses everything is empty, not absent.
    """
    note, discussions = _DISCUSSION.subn("", note)
    note, words = _DIAGNOSIS.subn("", note)
    return re.sub(r"\s+", " ", note).strip(), words + discussions
