"""Takes the answer out of a note: notes of teaching files name the diagnosis they teach.

Words are looked for in a plain copy of the note (`_plain`): lower case, without accents and what
cannot be seen, every dash a hyphen, full-width and look-alike letters Latin. So "COVID‑19" with any
dash, "ﬂu" and "pneu-\nmonia" are found; what is not a diagnosis word stays as it was written.
"""

from __future__ import annotations

import re
import unicodedata

# By node of the finding path, so that a test can ask for a label's own words. Each pattern is
# anchored at a word's start and takes the word with its endings.
WORDS: dict[str, str] = {
    "Pneumonia": r"(?:[a-z]\.\s*)?pneumoniae|(?:broncho|pleuro)?pneumoni\w*|cryptogenic organi[sz]ing|COP"
    r"|BOOP|eosinophilic|organi[sz]ing",
    "Viral": r"(?:anti)?virus\w*|(?:retro|anti)?viral\w*|RNA",
    "Bacterial": r"bacteri\w*",
    "Fungal": r"fung\w*|mycosis|mycoses",
    "COVID-19": r"(?:2019[-\s]*)?(?:n-?cov|covid)\w*(?:(?:[-\s]*|[./:?~])(?:19|2019)(?!\d)\w*)?"
    r"|(?:novel\s+)?corona\w*(?:\s*virus\w*)?"
    r"|cov-?2|wuhan|hubei|china|pandemic\w*|epidemi\w*|endemic|quarantin\w*|outbreak\w*|lockdown",
    "SARS": r"sars\w*(?:(?:[-\s]*|[./:?~])cov\w*)?(?:(?:[-\s]*|[./:?~])2(?!\d))?"
    r"|severe acute respiratory syndrome\w*",
    "MERS-CoV": r"mers(?:[-\s]*cov\w*)?|middle east\w* respiratory syndrome",
    "Influenza": r"h\.\s*influenzae|(?:para)?influenza\w*|flu|h1n1|h5n1|h7n9|swine",
    "Varicella": r"varicell\w*|chicken\s*pox|zoster|vzv",
    "Herpes": r"herpe\w*|hsv",
    "Pneumocystis": r"pneumoc[iy]st\w*|p\.?\s*jirove?ci+|jirove?ci+|p\.?\s*carinii|carinii|pcp|pjp",
    "Streptococcus": r"strep\w*|pneumococc\w*",
    "Staphylococcus": r"(?:s\.\s*)?aureus|staph\w*|mrsa",
    "Klebsiella": r"klebsiell\w*|friedlander\w*",
    "Legionella": r"legionn?[ea]\w*|(?:l\.\s*)?pneumophil\w*",
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
    "": r"(?:(?:positive|negative)\s+)?(?:(?:rt-?)?pcr"
    r"|(?:reverse[-\s]+transcription[-\s]+)?polymerase[-\s]+ch\w+[-\s]+reaction"
    r"|(?:(?:(?:naso|oro)?-?pharyngeal|nasal|throat|respiratory)\s+)?swabs?(?:\s+for)?)"
    r"|(?:positive|negative)\s+tests?(?:\s+for)?|tested\s+for"
    r"|test(?:ed|s)?(?:\s+w(?:as|ere))?\s+(?:positive|negative)(?:\s+for)?"
    r"|https?://\S+|(?:19|20)\d\d",
}
_DIAGNOSIS = re.compile(
    rf"(?<![^\W_])(?:{'|'.join(WORDS.values())})(?:'s)?(?:[-\s]+(?:positive|negative))?(?![^\W_])",
    re.IGNORECASE,
)
_DISCUSSION = re.compile(r"\bdiscussion\s*:.*", re.DOTALL)
_BROKEN = re.compile(r"(?<=[a-z])-\s+(?=[a-z])")  # at the end of a line

SAME = str.maketrans("ı’‘ʼ´−⁃", "i''''--")
LATIN = str.maketrans(  # what Cyrillic and Greek letters look like
    "АВЕКМНОРСТХІЅЈаеорсухіѕјΑΒΕΖΗΙΚΜΝΟΡΤΥΧονι", "ABEKMHOPCTXISJaeopcyxisjABEZHIKMNOPTYXovi"
)
HOLE = "\ufdd0"  # no character, for as long as it takes to close it
CLOSING = {
    rf"[-‐-―/]+(?={HOLE})|(?<={HOLE})[-‐-―/]+": "",  # post-, -like
    rf"{HOLE}(?:\s*{HOLE})*": HOLE,
    rf"[(\[{{“][\s,;:.]*{HOLE}[\s,;:.&+/{HOLE}-]*[)\]}}”]": HOLE,
    rf"\A\s*{HOLE}\s*[,;:.]+": "",
    rf"(?<=[.!?])\s*{HOLE}\s*[,;:.]+": HOLE,
    rf"[,;:]\s*{HOLE}\s*(?=[,;:.)\]}}]|\Z)": HOLE,
    rf"(?:\s*{HOLE})+\s*(?=[,;:.!?)\]}}])": "",
    rf"{HOLE}|\s+": " ",
}


def mask_diagnosis(note: str) -> tuple[str, int]:
    """The note without diagnosis words, and how many were taken out.

    Nothing stands where a word was: a mark would tell that there was something to hide, and so would
    its brackets, hyphens and commas. A closing "Discussion:" goes as a whole; it is written with the
    diagnosis in hand. A note that loses everything is empty, not absent.
    """
    spans = _spans(note)
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    text = HOLE.join(note[a:b] for a, b in zip([0, *ends], [*starts, len(note)], strict=True))
    for pattern, by in CLOSING.items():
        while (closed := re.sub(pattern, by, text)) != text:  # brackets may be nested
            text = closed
    return re.sub(r"\s+", " ", text).strip(), len(spans)


def _spans(note: str) -> list[tuple[int, int]]:
    """Where diagnosis words stand in `note`, in order and apart."""
    found = []
    plain, source = _plain(note)
    for copy, place in ((plain, source), _unbroken(plain, source)):
        for match in (*_DIAGNOSIS.finditer(copy), *_DISCUSSION.finditer(copy)):
            end = place[match.end() - 1] + 1
            while end < len(note) and _passed_over(note[end]):
                end += 1
            found.append((place[match.start()], end))
    apart: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if apart and start < apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((start, end))
    return apart


def _plain(note: str) -> tuple[str, list[int]]:
    """The copy in which words are looked for, and of each of its characters the place in `note`."""
    mixed: set[int] = set()  # words of Latin letters, all or some: a word of Cyrillic ones is Cyrillic
    for word in re.finditer(r"[\w\u00ad\u200b-\u200f\u2060\ufeff]+", note):
        if re.search("[A-Za-zＡ-Ｚａ-ｚ]", word[0]):
            mixed.update(range(*word.span()))
    plain: list[str] = []
    source: list[int] = []
    for i, character in enumerate(note):
        if _passed_over(character):
            continue
        latin = character.translate(LATIN) if i in mixed else character
        for part in unicodedata.normalize("NFKD", latin.translate(SAME)).casefold():
            if not _passed_over(part):
                plain.append("-" if unicodedata.category(part) == "Pd" else part)
                source.append(i)
    return "".join(plain), source


def _passed_over(character: str) -> bool:
    """Accents, what cannot be seen, and the superscript of a footnote."""
    raised = unicodedata.decomposition(character).startswith("<super>")
    return raised or unicodedata.category(character) in ("Mn", "Me", "Cf")


def _unbroken(plain: str, source: list[int]) -> tuple[str, list[int]]:
    """The same without hyphens at the ends of lines."""
    broken = {i for match in _BROKEN.finditer(plain) for i in range(*match.span())}
    whole = [i for i in range(len(plain)) if i not in broken]
    return "".join(plain[i] for i in whole), [source[i] for i in whole]
