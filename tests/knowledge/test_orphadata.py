"""Orphadata's XML under its published names becomes what Orphanet's tables become."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest

from robustmdiff.knowledge import Ontology, OntologyError, load_concepts, read_orphadata

HEAD = """<?xml version="1.0" encoding="ISO-8859-1"?>
<JDBOR date="2026-06-23 07:53:50" version="1.3.48" copyright="Orphanet (c) 2026">
  <Availability><Licence><ShortIdentifier>CC-BY-4.0</ShortIdentifier></Licence></Availability>
"""


def disorder(code: int, name: str, inside: str = "") -> str:
    return f"""    <Disorder id="9{code}">
      <OrphaCode>{code}</OrphaCode>
      <ExpertLink lang="en">http://www.orpha.net/consor/cgi-bin/OC_Exp.php?lng=en&amp;Expert={code}</ExpertLink>
      <Name lang="en">{name}</Name>
      <DisorderType id="21394"><Name lang="en">Disease</Name></DisorderType>
{inside}    </Disorder>
"""


def named(tag: str, text: str) -> str:
    return f'<{tag} id="1"><Name lang="en">{text}</Name></{tag}>' if text else f"<{tag}/>"


def reference(source: str, code: str, relation: str) -> str:
    return (
        f'<ExternalReference id="3"><Source>{source}</Source><Reference>{code}</Reference>'
        f"{named('DisorderMappingRelation', relation)}<DisorderMappingICDRelation/></ExternalReference>"
    )


def association(target: str, type: str) -> str:
    return (
        f'<DisorderDisorderAssociation>{target}<RootDisorder id="1" cycle="true"/>'
        f"{named('DisorderDisorderAssociationType', type)}</DisorderDisorderAssociation>"
    )


def target(code: int, name: str) -> str:
    return (
        f'<TargetDisorder id="9"><OrphaCode>{code}</OrphaCode><Name lang="en">{name}</Name></TargetDisorder>'
    )


def associations(*of: str) -> str:
    return f"<DisorderDisorderAssociationList>{''.join(of)}</DisorderDisorderAssociationList>\n"


def flag(label: str) -> str:
    return (
        f'<DisorderFlagList><DisorderFlag id="1"><Value>1</Value><Label>{label}</Label></DisorderFlag>'
        "</DisorderFlagList>\n"
    )


PRODUCT1 = disorder(
    10,
    "M\xe9ni\xe8re-like disease",
    flag("")
    + '<SynonymList><Synonym lang="en">MLD</Synonym><Synonym lang="en">one</Synonym></SynonymList>\n'
    + "<ExternalReferenceList>"
    + reference("OMIM", "111111", "E (Exact mapping: the two concepts are equivalent)")
    + reference("OMIM", "222222", "BTNT (ORPHAcode is broader than the targeted code used to represent it)")
    + reference("ICD-10", "H81.0", "E (Exact mapping: the two concepts are equivalent)")
    + "</ExternalReferenceList>\n"
    # The other end of an association: 60 moved here.
    + associations(association('<TargetDisorder id="910" cycle="true"/>', "Moved to"))
    + '<SummaryInformationList><SummaryInformation id="1" lang="en"><TextSectionList><TextSection id="2">'
    + named("TextSectionType", "Definition")
    + "<Contents>A rare disease of the &lt;i&gt;ear&lt;/i&gt;, with &lt;3 attacks.</Contents></TextSection>"
    + "</TextSectionList></SummaryInformation></SummaryInformationList>\n",
) + "".join(
    [
        disorder(20, "a group"),
        disorder(30, "third", flag("Non-rare disease in Europe")),
        disorder(
            60, "former", flag("Deprecated entity") + associations(association(target(10, "x"), "Moved to"))
        ),
        disorder(70, "gone", flag("Obsolete entity")),
        disorder(
            80,
            "split",
            flag("Deprecated entity")
            + associations(
                association(target(10, "x"), "Moved to"), association(target(30, "y"), "Moved to")
            ),
        ),
    ]
)


def phenotypes(*stated: tuple[str, str, str]) -> str:
    return (
        "      <HPODisorderAssociationList>\n"
        + "".join(
            f'<HPODisorderAssociation id="1">\n<HPO><HPOId>{id}</HPOId><HPOTerm>{term}</HPOTerm></HPO>\n'
            f"{named('HPOFrequency', frequency)}<DiagnosticCriteria/></HPODisorderAssociation>\n"
            for id, term, frequency in stated
        )
        + "</HPODisorderAssociationList>\n"
    )


PRODUCT4 = "".join(
    f'<HPODisorderSetStatus id="1">\n{of}<Source>1[PMID]</Source><Online>y</Online></HPODisorderSetStatus>\n'
    for of in (
        disorder(
            10,
            "M\xe9ni\xe8re-like disease",
            phenotypes(
                ("HP:1", "vertigo", "Very frequent (99-80%)"),
                ("HP:2", "fever", "Occasional (29-5%)"),
                ("HP:3", "cough", ""),
            ),
        ),
        disorder(30, "third", phenotypes(("HP:1", "vertigo", "Excluded (0%)"))),
        disorder(60, "former", phenotypes(("HP:2", "fever", "Frequent (79-30%)"))),
    )
)


def prevalences(*stated: tuple[str, str, str]) -> str:
    return (
        "<PrevalenceList>"
        + "".join(
            f'<Prevalence id="1"><Source>1[PMID]</Source>{named("PrevalenceType", type)}'
            f"{named('PrevalenceClass', band)}<ValMoy>0.0</ValMoy>{named('PrevalenceGeographic', place)}"
            f"{named('PrevalenceValidationStatus', 'Validated')}</Prevalence>\n"
            for type, band, place in stated
        )
        + "</PrevalenceList>\n"
    )


PRODUCT9 = disorder(
    10,
    "M\xe9ni\xe8re-like disease",
    prevalences(
        ("Prevalence at birth", "6-9 / 10 000", "Worldwide"),
        ("Point prevalence", "1-9 / 100 000", "France"),
        ("Point prevalence", "1-5 / 10 000", "Europe"),
        ("Cases/families", "", "Worldwide"),
    ),
) + disorder(
    30,
    "third",
    prevalences(
        ("Annual incidence", "&gt;1 / 1000", "Worldwide"), ("Point prevalence", "&lt;1 / 1 000 000", "Japan")
    ),
)

PRODUCT7 = disorder(
    10,
    "M\xe9ni\xe8re-like disease",
    associations(association(target(99, "Rare ear disease"), "Preferential parent")),
) + disorder(
    99,
    "Rare ear disease",
    associations(association('<TargetDisorder id="999" cycle="true"/>', "Preferential parent")),
)

PRODUCT3 = """<ClassificationList count="1"><Classification id="146"><OrphaNumber>99</OrphaNumber>
<Name lang="en">Orphanet classification of rare ear diseases</Name><ClassificationNodeRootList count="1">
<ClassificationNode>
<Disorder id="999"><OrphaCode>99</OrphaCode><Name lang="en">Rare ear disease</Name></Disorder>
<ClassificationNodeChildList count="2">
<ClassificationNode><Disorder id="920"><OrphaCode>20</OrphaCode><Name lang="en">a group</Name></Disorder>
<ClassificationNodeChildList count="2">
<ClassificationNode><Disorder id="910"><OrphaCode>10</OrphaCode><Name lang="en">one</Name></Disorder>
<ClassificationNodeChildList count="0"></ClassificationNodeChildList></ClassificationNode>
<ClassificationNode><Disorder id="940"><OrphaCode>40</OrphaCode><Name lang="en">fourth</Name></Disorder>
<ClassificationNodeChildList count="0"></ClassificationNodeChildList></ClassificationNode>
</ClassificationNodeChildList></ClassificationNode>
<ClassificationNode><Disorder id="910"><OrphaCode>10</OrphaCode><Name lang="en">one</Name></Disorder>
<ClassificationNodeChildList count="0"></ClassificationNodeChildList></ClassificationNode>
</ClassificationNodeChildList></ClassificationNode>
</ClassificationNodeRootList></Classification></ClassificationList>
"""


def product(body: str, list: str = "DisorderList") -> str:
    return f'{HEAD}  <{list} count="1">\n{body}  </{list}>\n</JDBOR>\n'


FILES = {
    "en_product1.xml": product(PRODUCT1),
    "en_product4.xml": product(PRODUCT4, "HPODisorderSetStatusList"),
    "en_product7.xml": product(PRODUCT7),
    "en_product9_prev.xml": product(PRODUCT9),
}


def folder(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    return tmp_path


def read(tmp_path: Path, files: dict[str, str] = FILES) -> Ontology:
    return read_orphadata(folder(tmp_path, files))


def test_every_statement_of_the_four_files_is_read(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ontology = read(tmp_path)
    one = ontology.terms["ORPHA:10"]
    assert (one.name, one.kind, one.synonyms) == ("Ménière-like disease", "disease", ("MLD", "one"))
    assert one.definition == "A rare disease of the ear, with <3 attacks."
    assert one.xrefs == ("OMIM:111111", "ICD-10:H81.0"), "exact cross-references only"
    assert ontology.terms["HP:3"].name == "cough"
    assert set(ontology.edges) == {("ORPHA:10", "is_a", "ORPHA:99")}
    assert ontology.terms["ORPHA:99"].name == "Rare ear disease"
    assert ontology.prevalence == pytest.approx({"ORPHA:10": 3e-4, "ORPHA:30": 5e-7})
    assert ontology.frequency == pytest.approx(
        {
            ("ORPHA:10", "HP:1"): 0.895,
            ("ORPHA:10", "HP:2"): (0.17 + 0.545) / 2,  # what is said of 60, which moved here, included
            ("ORPHA:10", "HP:3"): math.nan,
            ("ORPHA:30", "HP:1"): 0.0,
        },
        nan_ok=True,
    )


def test_retired_disorders_are_no_concepts(tmp_path):
    ontology = read(tmp_path)
    retired = {
        term.id: (term.replaced_by, term.consider) for term in ontology.terms.values() if term.obsolete
    }
    assert retired == {
        "ORPHA:60": ("ORPHA:10", ()),
        "ORPHA:70": ("", ()),
        "ORPHA:80": ("", ("ORPHA:10", "ORPHA:30")),
    }
    concepts = ontology.concepts()
    assert concepts.id == ("ORPHA:10", "ORPHA:20", "ORPHA:30", "ORPHA:99", "HP:1", "HP:2", "HP:3")
    assert concepts.frequency[0, 0] == pytest.approx(0.895)


def test_findings_of_a_disorder_retired_without_a_successor_are_left_out_aloud(tmp_path):
    body = PRODUCT4.replace("<OrphaCode>60<", "<OrphaCode>70<")
    with pytest.warns(UserWarning, match=r"en_product4\.xml: 1 statements on retired disorders are left out"):
        ontology = read(tmp_path, FILES | {"en_product4.xml": product(body, "HPODisorderSetStatusList")})
    assert ontology.frequency["ORPHA:10", "HP:2"] == pytest.approx(0.17)


def test_a_classification_gives_all_parents(tmp_path):
    ontology = read(tmp_path, FILES | {"en_product3_146.xml": HEAD + PRODUCT3 + "</JDBOR>"})
    assert set(ontology.edges) == {
        ("ORPHA:10", "is_a", "ORPHA:20"),
        ("ORPHA:10", "is_a", "ORPHA:99"),
        ("ORPHA:20", "is_a", "ORPHA:99"),
        ("ORPHA:40", "is_a", "ORPHA:20"),
    }
    assert ontology.terms["ORPHA:10"].name == "Ménière-like disease"


@pytest.mark.parametrize("name", sorted(FILES))
def test_any_of_the_files_is_a_source_and_what_is_missing_is_said(tmp_path, name):
    with pytest.warns(UserWarning, match="the concepts are without ") as caught:
        concepts = load_concepts(folder(tmp_path, {name: FILES[name]}) / name)
    assert "ORPHA:10" in concepts.id
    assert sum(str(caught[0].message).count(f"(no {other})") for other in FILES) == 3
    assert f"(no {name})" not in str(caught[0].message)


def test_the_format_of_before_2020_is_read(tmp_path):
    old = {name: text.replace("OrphaCode>", "OrphaNumber>") for name, text in FILES.items()}
    (tmp_path / "new").mkdir()
    then, now = read(tmp_path, old), read(tmp_path / "new")
    assert (then.terms, then.edges, then.prevalence) == (now.terms, now.edges, now.prevalence)
    assert dict(then.frequency) == pytest.approx(dict(now.frequency), abs=0, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        pytest.param(
            "en_product4.xml", "Occasional (29-5%)", "Often (50%)", r"frequency 'Often \(50%\)'", id="band"
        ),
        pytest.param(
            "en_product9_prev.xml", "1-5 / 10 000", "1-5 / 7", "prevalence class '1-5 / 7'", id="class"
        ),
        pytest.param("en_product1.xml", "<OrphaCode>20<", "<OrphaCode> <", "without an OrphaCode", id="code"),
        pytest.param("en_product7.xml", "</Disorder>", "</Disease>", "mismatched tag", id="broken"),
        pytest.param(
            "en_product7.xml",
            "<OrphaCode>99</OrphaCode><",
            "<OrphaCode>10</OrphaCode><",
            "closes a cycle",
            id="cycle",
        ),
    ],
)
def test_a_damaged_file_names_its_line(tmp_path, name, old, new, message):
    assert old in FILES[name]
    text = FILES[name].replace(old, new, 1)
    with pytest.raises(OntologyError, match=message) as caught:
        read(tmp_path, FILES | {name: text})
    before = FILES[name][: FILES[name].index(old)]
    assert caught.value.path.name == name
    # The line of the element that states it, which begins at most a few lines above.
    assert 0 <= before.count("\n") + 1 - caught.value.line <= 2


def test_a_folder_without_any_of_them_says_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none of en_product1\.xml, en_product4\.xml, .* is there"):
        read_orphadata(tmp_path)
