"""The HPO's annotation files: the number of every form of statement, and what is refused where."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from robustmdiff.knowledge import Ontology, OntologyError, read_hpo_annotations, read_obo

HPO = """[Term]
id: HP:1
name: cough
alt_id: HP:11

[Term]
id: HP:2
name: fever

[Term]
id: HP:3
name: old fever
is_obsolete: true
replaced_by: HP:2

[Term]
id: HP:4
name: nonsense
is_obsolete: true
"""


def old_row(id="7", qualifier="", finding="HP:1", frequency="", aspect="O", synonyms="") -> str:
    cells = [
        "OMIM",
        id,
        "seven",
        qualifier,
        finding,
        "PMID:1",
        "IEA",
        "",
        frequency,
        "",
        aspect,
        synonyms,
        "",
        "x",
    ]
    return "\t".join(cells) + "\n"


def new_row(qualifier="", finding="HP:1", frequency="", aspect="P") -> str:
    cells = ["OMIM:7", "seven", qualifier, finding, "PMID:1", "IEA", "", frequency, "", "", aspect, "x"]
    return "\t".join(cells) + "\n"


@pytest.fixture
def annotations(tmp_path: Path) -> Callable:
    (tmp_path / "hp.obo").write_text(HPO, encoding="utf-8")

    def read(text: str, name: str = "annotation.tab"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return read_hpo_annotations(tmp_path / name, read_obo(tmp_path / "hp.obo"))

    return read


def test_annotations_are_averaged_resolved_and_negated(annotations):
    ontology = annotations(
        old_row(frequency="3/4", synonyms="SEVEN SYNDROME|http://address")
        + old_row(finding="HP:11", frequency="25%")
        + old_row(finding="HP:11", frequency="variable")
        + old_row(finding="HP:3")
        + old_row(id="8", qualifier="NOT", finding="HP:2", frequency="hallmark")
        + old_row(finding="HP:2", frequency="1/2", aspect="I")
    )
    frequency = dict(ontology.frequency)
    assert math.isnan(frequency.pop(("OMIM:7", "HP:2"))), "stated, with no number"
    assert frequency == pytest.approx({("OMIM:7", "HP:1"): 0.5, ("OMIM:8", "HP:2"): 0.0})
    assert ontology.terms["OMIM:7"].synonyms == ("SEVEN SYNDROME",)
    assert ontology.terms["OMIM:7"].kind == "disease"


def test_todays_layout_reads_too(annotations):
    head = "#description: annotations\ndatabase_id\tdisease_name\tqualifier\n"
    ontology = annotations(
        head
        + new_row(frequency="HP:0040283")
        + new_row(qualifier="NOT", finding="HP:2")
        + new_row(aspect="C"),
        "phenotype.hpoa",
    )
    assert ontology.frequency == pytest.approx({("OMIM:7", "HP:1"): 0.17, ("OMIM:7", "HP:2"): 0.0})


def test_annotations_of_an_obsolete_finding_are_left_out_aloud(annotations):
    with pytest.warns(UserWarning, match="1 annotations of obsolete findings"):
        ontology = annotations(old_row() + old_row(finding="HP:4"))
    assert set(ontology.frequency) == {("OMIM:7", "HP:1")}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param(old_row(finding="HP:9"), "unknown finding 'HP:9'", id="unknown-finding"),
        pytest.param(old_row(frequency="often"), "frequency 'often'", id="unreadable-frequency"),
        pytest.param("OMIM\t7\n", "2 columns, expected 14 or 12", id="short-row"),
    ],
)
def test_a_broken_annotation_names_its_line(annotations, row, message):
    with pytest.raises(OntologyError, match=message) as caught:
        annotations(old_row() + row)
    assert caught.value.line == 2


# The cases below stand in today's layout.
ROOT = "[Term]\nid: HP:1\nname: root\n\n[Term]\nid: HP:2\nname: Fever\nis_a: HP:1\n\n"
HEADER = (
    "#description: x\n#version: 2025\ndatabase_id\tdisease_name\tqualifier\thpo_id\treference\tevidence\t"
    "onset\tfrequency\tsex\tmodifier\taspect\tbiocuration\n"
)


def row(hp="HP:2", freq="", q="", aspect="P", d="OMIM:1", ref="PMID:1", onset="", sex="", modifier="") -> str:
    cells = [d, "Some syndrome", q, hp, ref, "PCS", onset, freq, sex, modifier, aspect, "HPO:x[2020-01-01]"]
    return "\t".join(cells) + "\n"


@pytest.fixture
def hpoa(tmp_path: Path) -> Callable[..., Ontology]:
    def read(*rows: str, terms: str = ROOT, header: str = HEADER) -> Ontology:
        (tmp_path / "hp.obo").write_text("format-version: 1.2\n\n" + terms, encoding="utf-8")
        (tmp_path / "phenotype.hpoa").write_text(header + "".join(rows), encoding="utf-8")
        ontology = read_hpo_annotations(tmp_path / "phenotype.hpoa", read_obo(tmp_path / "hp.obo"))
        ontology.concepts()  # whatever was read becomes a table
        return ontology

    return read


PAIR = ("OMIM:1", "HP:2")


@pytest.mark.parametrize(
    ("rows", "fraction"),
    [
        pytest.param([row(freq="3/4"), row(freq="1/10")], 4 / 14, id="counts-are-pooled"),
        pytest.param([row(freq="1/1", ref=f"PMID:{i}") for i in range(3)], 1.0, id="equal-counts"),
        pytest.param([row(freq="0/19"), row(freq="3/4")], 3 / 23, id="none-of-19-weighs-19"),
        pytest.param([row(freq="0/19")], 0.0, id="none-of-19-is-excluded"),
        pytest.param([row(freq="3/4"), row(freq="3/4"), row(freq="1/10")], 4 / 14, id="a-row-given-twice"),
        pytest.param(
            [row(freq="3/4", sex="MALE"), row(freq="3/4", sex="FEMALE"), row(freq="1/10")],
            7 / 18,
            id="one-study-of-two-sexes",
        ),
        pytest.param([row(freq="3/4", ref="PMID:1"), row(freq="3/4", ref="PMID:2")], 0.75, id="two-studies"),
        pytest.param(
            [row(freq="3/4"), row(freq="1/10"), row(freq="50%")],
            (4 / 14 + 0.5) / 2,
            id="counts-are-one-statement-a-percentage-another",
        ),
        pytest.param(
            [row(freq="3/4"), row(freq="HP:0040283"), row(freq="50%")],
            (0.75 + 0.17 + 0.5) / 3,
            id="count-term-percentage",
        ),
        pytest.param([row(freq="3/4"), row()], 0.75, id="an-empty-frequency-adds-nothing"),
        pytest.param([row(), row(ref="PMID:2")], math.nan, id="nothing-but-empty-frequencies"),
        pytest.param([row(q="NOT")], 0.0, id="not"),
        pytest.param([row(q="not ")], 0.0, id="not-in-small-letters-with-a-blank"),
        pytest.param([row(q="NOT", freq="3/4")], 0.0, id="not-with-a-count"),
        pytest.param([row(q="NOT", freq="3/4"), row(freq="2/4")], 2 / 8, id="not-with-a-count-is-pooled"),
        pytest.param([row(q="NOT"), row(freq="2/2")], 0.5, id="not-against-a-count"),
        pytest.param([row(q="NOTABLE", freq="2/2")], 1.0, id="another-qualifier"),
        pytest.param(
            [row(aspect="I"), row(aspect="H", freq="0/9"), row(aspect="P", freq="1/2")], 0.5, id="aspects"
        ),
        pytest.param([row(aspect="p", freq="1/2")], 0.5, id="aspect-in-small-letters"),
        pytest.param([row(hp=" HP:2 ", freq="1/2")], 0.5, id="blanks-around-an-id"),
    ],
)
def test_statements_of_one_pair_become_one_number(hpoa, rows, fraction):
    for order in (rows, rows[::-1]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            frequency = dict(hpoa(*order).frequency)
        assert set(frequency) == {PAIR}
        assert frequency[PAIR] == pytest.approx(fraction, abs=1e-15, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "fraction"),
    [
        ("1/1", 1.0),
        ("0/5", 0.0),
        ("3 / 4", 0.75),
        ("3 of 4", 0.75),
        ("17%", 0.17),
        ("17.5 %", 0.175),
        ("5-10%", 0.075),
        ("5%-10%", 0.075),
        ("5 – 10 %", 0.075),
        ("HP:0040283 ", 0.17),
        ("Frequent", 0.545),  # the band of today, not the .33 that the word meant before 2018
        ("very rare", 0.025),
        ("Very frequent (99-80%)", 0.895),
    ],
)
def test_a_frequency_of_todays_layout(hpoa, text, fraction):
    assert dict(hpoa(row(freq=text)).frequency) == pytest.approx({PAIR: fraction}, abs=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        *("~50%", "12/10", "0/0", "3/0", "-1/4", "75", "0.75", ">50%", "1/2;3/4", "130%", "17,5%", "1.5/3"),
        *("hallmark", "HP:0040279", "Frequent (often)", "٣/٤"),
    ],
)
def test_a_frequency_that_is_no_number_is_refused_with_its_line(hpoa, text):
    with pytest.raises(OntologyError) as caught:
        hpoa(row(freq="1/2"), row(freq=text))
    assert caught.value.line == 5
    assert f"phenotype.hpoa:5: frequency {text!r}, expected n/m (n patients of m" in str(caught.value)


OLD = "[Term]\nid: HP:3\nname: obsolete x\nis_obsolete: true\n"


@pytest.mark.parametrize(
    "terms",
    [
        pytest.param(ROOT + OLD + "replaced_by: HP:2\n", id="replaced"),
        pytest.param(
            ROOT + OLD + "replaced_by: HP:4\n\n" + OLD.replace("HP:3", "HP:4") + "replaced_by: HP:2\n",
            id="replaced-by-one-that-is-obsolete-too",
        ),
        pytest.param(
            ROOT
            + "[Term]\nid: HP:6\nalt_id: HP:5\nis_obsolete: true\nreplaced_by: HP:2\n\n"
            + OLD
            + "replaced_by: HP:5\n",
            id="replaced-by-an-alternative-id-of-an-obsolete-term",
        ),
        pytest.param("[Term]\nid: HP:2\nalt_id: HP:5\n\n" + OLD + "replaced_by: HP:5\n", id="by-an-alt-id"),
        pytest.param("[Term]\nid: HP:2\nalt_id: HP:3\n\n" + OLD, id="alt-id-with-an-obsolete-stanza"),
        pytest.param(
            "[Term]\nid: HP:2\nalt_id: HP:3\n\n" + OLD + "replaced_by: MP:1\n",
            id="replaced-by-another-ontology-but-an-alternative-id-here",
        ),
        pytest.param("[Term]\nid: HP:2\nalt_id: HP:3\n\n", id="alternative-id"),
    ],
)
def test_a_former_id_stands_for_todays_term(hpoa, terms):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ontology = hpoa(row("HP:3", freq="3/4"), row("HP:2", freq="1/10"), terms=terms)
    assert dict(ontology.frequency) == pytest.approx({PAIR: 4 / 14}), "both ids are one finding"


@pytest.mark.parametrize(
    ("terms", "hint"),
    [
        pytest.param(ROOT + OLD + "consider: HP:2\n", r"HP:3 \(consider HP:2\)", id="consider"),
        pytest.param(
            ROOT + OLD + "replaced_by: HP:1\nreplaced_by: HP:2\n", r"HP:3 \(consider HP:1, HP:2\)", id="two"
        ),
        pytest.param(ROOT + OLD + "replaced_by: MP:1\n", "HP:3", id="another-ontology"),
        pytest.param(ROOT + OLD, "HP:3", id="nothing"),
        pytest.param(
            "[Term]\nid: HP:1\nalt_id: HP:3\n\n[Term]\nid: HP:2\nalt_id: HP:3\n",
            "HP:3",
            id="alternative-id-of-two",
        ),
    ],
)
def test_an_obsolete_finding_without_one_successor_is_left_out_aloud(hpoa, terms, hint):
    message = f"2 annotations of obsolete findings are left out, the first on line 5: {hint}"
    with pytest.warns(UserWarning, match=message):
        ontology = hpoa(row(freq="1/2"), row("HP:3"), row("HP:3", ref="PMID:2"), terms=terms)
    assert dict(ontology.frequency) == {PAIR: 0.5}


def test_a_row_of_an_unknown_aspect_is_left_out_aloud(hpoa):
    with pytest.warns(UserWarning, match=r"2 annotations of the unknown aspects \['', 'X'\] are left out"):
        ontology = hpoa(row(freq="1/2"), row(aspect="X"), row(aspect=""))
    assert dict(ontology.frequency) == {PAIR: 0.5}


NAMES = HEADER.splitlines()[-1]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(HEADER, id="todays"),
        pytest.param("", id="none"),
        pytest.param("#" + NAMES.replace("_", "").title() + "\n", id="of-2018-behind-a-hash"),
        pytest.param(NAMES.upper() + "\n", id="capitals"),
        pytest.param("#DatabaseID\tDiseaseName\tQualifier\n", id="cut-short"),
    ],
)
def test_every_form_of_the_header_is_read(hpoa, header):
    assert dict(hpoa(row(freq="3/4"), header=header).frequency) == {PAIR: 0.75}


def test_a_header_says_where_the_columns_are(hpoa):
    def moved(line: str) -> str:
        first, *cells = line.rstrip("\n").split("\t")
        return "\t".join([first, *cells[::-1], "one more"]) + "\n"

    ontology = hpoa(moved(row(freq="3/4")), moved(row(aspect="C")), header=moved(NAMES))
    assert dict(ontology.frequency) == {PAIR: 0.75}
    assert ontology.terms["OMIM:1"].name == "Some syndrome"


@pytest.mark.parametrize(
    ("text", "header", "line", "message"),
    [
        pytest.param(
            row(), NAMES.replace("aspect", "view") + "\n", 1, "no column 'aspect'", id="renamed-column"
        ),
        pytest.param(row()[:-1].rpartition("\t")[0], HEADER, 4, "11 columns, expected 12 as in", id="11"),
        pytest.param(row()[:-1] + "\tx\n", HEADER, 4, "13 columns, expected 12 as in the header", id="13"),
        pytest.param(row()[:-1] + "\tx\n", "", 1, "13 columns, expected 14 or 12", id="13-without-a-header"),
        pytest.param(row(d="HP:1"), HEADER, 4, "the disease HP:1 is a finding of the ontology", id="finding"),
        pytest.param(row(d="OMIM"), HEADER, 4, "disease id 'OMIM', expected e.g. 'OMIM:154700'", id="no-id"),
        pytest.param(row("X:7"), HEADER, 4, "the finding X:7 is a disease of the ontology", id="disease"),
        pytest.param(row("HP:9"), HEADER, 4, "unknown finding 'HP:9'", id="unknown"),
    ],
)
def test_a_damaged_file_names_its_line(hpoa, text, header, line, message):
    with pytest.raises(OntologyError) as caught:
        hpoa(text, header=header, terms=ROOT + "[Term]\nid: X:7\nname: a disease\n")
    assert caught.value.line == line
    assert message in str(caught.value)


def test_a_disease_that_the_ontology_holds_keeps_its_entry(hpoa):
    ontology = hpoa(
        row(d="X:7", freq="1/2"),
        terms=ROOT + "[Term]\nid: X:7\nname: a disease\nis_a: X:8\n\n[Term]\nid: X:8\n",
    )
    assert ontology.terms["X:7"].name == "a disease"
    assert dict(ontology.frequency) == {("X:7", "HP:2"): 0.5}
