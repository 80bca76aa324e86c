"""Reports, panels and genotypes say what their readings say."""

from __future__ import annotations

import numpy as np
import pytest

from robustmdiff.data.cohort import panel, report
from robustmdiff.data.cohort.table import DISEASES, FINDINGS, IMAGING, LABS, disease_table

TEXT, STRUCTURED, GENOMIC = 3, 4, 5


def decode(text: str) -> set[str]:
    """An independent reading of the grammar: findings named without "no" before them."""
    said = set()
    plain = text.lower()
    for finding, phrases in report.SYNONYMS.items():
        for phrase in phrases:
            for start in _occurrences(plain, phrase.lower()):
                if not plain[:start].endswith("no "):
                    said.add(finding)
    return said


def _occurrences(text, phrase):
    at = text.find(phrase)
    while at >= 0:
        yield at
        at = text.find(phrase, at + 1)


def readings(seed, modality, share=0.2):
    rng = np.random.default_rng(seed)
    visible = disease_table(0).visible[modality]
    return np.where(visible, rng.random(len(FINDINGS)) < share, -1).astype(np.int8)


def test_every_finding_has_words_of_its_own():
    phrases = [p.lower() for names in report.SYNONYMS.values() for p in names]
    assert set(report.SYNONYMS) == set(FINDINGS)
    for a in phrases:
        assert [b for b in phrases if a in b] == [a]
    # No disease is named in a report.
    assert not any(d.name in p for d in DISEASES for p in phrases)


@pytest.mark.parametrize("share", [0.0, 0.15, 0.6, 1.0])
def test_a_report_without_typos_decodes_to_its_readings(monkeypatch, share):
    monkeypatch.setattr(report, "MISTYPED", 0.0)
    for seed in range(60):
        r = readings(seed, TEXT, share)
        text = report.write(r, False, np.random.default_rng(seed))
        assert decode(text) == {FINDINGS[f] for f in np.flatnonzero(r == 1)}


def test_reports_vary_doubt_deny_and_stay_short():
    texts = [report.write(readings(s, TEXT), False, np.random.default_rng(s)) for s in range(400)]
    assert max(len(t.split()) for t in texts) <= 60
    for word in ("no ", "possible ", "suspected ", "unremarkable", "variant"):
        assert any(word in t for t in texts), word
    assert len(set(texts)) > 390


def test_a_degraded_report_is_shorter_and_mistyped():
    good, bad = (
        [report.write(readings(s, TEXT), d, np.random.default_rng(s)) for s in range(100)]
        for d in (False, True)
    )
    assert np.mean([len(t.split()) for t in bad]) < 0.85 * np.mean([len(t.split()) for t in good])
    known = {w for t in good for w in t.split()}
    assert np.mean([np.mean([w not in known for w in t.split()]) for t in bad]) > 0.03


def test_lab_values_lie_in_or_out_of_their_reference_range():
    wrong, total = 0, 0
    for seed in range(300):
        r = readings(seed, STRUCTURED, 0.5)
        values = panel.measure(r, False, np.random.default_rng(seed))
        assert set(values) == set(np.flatnonzero(r >= 0))
        for f, value in values.items():
            field = panel.lab_of(f).field
            assert field.reference is not None
            low_is_abnormal = panel.lab_of(f).beyond < 0
            abnormal = value < field.reference[0] if low_is_abnormal else value > field.reference[1]
            wrong += abnormal != (r[f] == 1)
            total += 1
    # u = +-1 with sd .4 crosses the limit with probability Phi(-2.5) = .0062; rounding adds a little.
    assert 0.002 < wrong / total < 0.015


def test_degraded_values_overlap_more():
    def error(degraded):
        out = []
        for seed in range(200):
            r = readings(seed, STRUCTURED, 0.5)
            values = panel.measure(r, degraded, np.random.default_rng(seed))
            crp = FINDINGS.index("raised C-reactive protein")
            out.append((values[crp] > 10) != (r[crp] == 1))
        return np.mean(out)

    assert error(True) > 0.08 > 0.03 > error(False)


def test_genotypes_follow_the_readings():
    first = len(IMAGING) + len(LABS)
    calls = []
    for seed in range(300):
        r = readings(seed, GENOMIC, 0.5)
        got = panel.genotype(r, False, np.random.default_rng(seed))
        assert {f: c != "wild type" for f, c in got.items()} == {f: r[f] == 1 for f in range(first, 42)}
        calls += list(got.values())
    assert set(calls) == set(panel.GENOTYPE_CALLS)


def test_fields_name_units_and_ranges():
    fields = panel.structured_fields(disease_table(0).visible[STRUCTURED])
    assert len(fields) == 2 + 12 + 11
    assert all(f.unit and f.reference for f in fields[2:])
    assert fields[1].categories == ("female", "male")
