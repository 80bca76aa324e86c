"""Each way an OBO file can be broken names the file and the line; whole files give every field."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustmdiff.knowledge import OntologyError, Term, read_obo
from robustmdiff.knowledge.ontology import current_ids

WHOLE = r"""format-version: 1.2
default-namespace: chest

! a comment line
[Term]
id: DOID:1
name: lung disease

[Term]
id: DOID:2
name: pneumonia
alt_id: DOID:20
def: "Inflamed \"air sacs\"\: alveoli." [url:http\://x] {comment="y"}
synonym: "lung inflammation" EXACT []
synonym: "chest infection" BROAD []
synonym: "PN" EXACT OMO:0003012 []
synonym: "scopeless" []
xref: ICD10CM:J18 "Pneumonia"
xref: UMLS_CUI:C0032285
is_a: DOID:1 {source="x"} ! lung disease
relationship: part_of DOID:4 ! syndrome
relationship: located_in UBERON:7 ! lung, of another file

[Term]
id: DOID:3
name: grippe
namespace: old
is_obsolete: true
replaced_by: DOID:2

[Term]
id: DOID:4
is_a: DOID:1

[Term]
id: HP:5
name: cough

[Typedef]
id: part_of
name: part of
"""


def write(tmp_path: Path, text: str | bytes, name: str = "chest.obo") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_every_field_of_a_whole_file_is_read(tmp_path):
    ontology = read_obo(write(tmp_path, WHOLE))
    assert list(ontology.terms) == ["DOID:1", "DOID:2", "DOID:3", "DOID:4", "HP:5"]
    pneumonia = ontology.terms["DOID:2"]
    assert pneumonia.name == "pneumonia"
    assert pneumonia.definition == 'Inflamed "air sacs": alveoli.'
    assert pneumonia.synonyms == ("lung inflammation", "PN"), "only exact synonyms are the same thing"
    assert pneumonia.xrefs == ("ICD10CM:J18", "UMLS_CUI:C0032285")
    assert pneumonia.alt_ids == ("DOID:20",)
    assert pneumonia.namespace == "chest"
    assert pneumonia.kind == "disease"
    assert ontology.terms["HP:5"].kind == "finding"
    assert ontology.terms["DOID:3"].obsolete
    assert ontology.terms["DOID:3"].replaced_by == "DOID:2"
    assert ontology.terms["DOID:3"].namespace == "old"
    assert ontology.terms["DOID:4"].name == "DOID:4", "a term without a name is called by its id"
    assert ontology.edges == {
        ("DOID:2", "is_a", "DOID:1"): 20,
        ("DOID:2", "part_of", "DOID:4"): 21,
        ("DOID:4", "is_a", "DOID:1"): 33,
    }


def test_concepts_leave_out_obsolete_terms_and_hold_each_relation_both_ways(tmp_path):
    concepts = read_obo(write(tmp_path, WHOLE)).concepts()
    assert concepts.id == ("DOID:1", "DOID:2", "DOID:4", "HP:5")
    edges = {
        (concepts.id[s], concepts.relations[r], concepts.id[t])
        for s, r, t in zip(concepts.source, concepts.relation, concepts.target, strict=True)
    }
    assert edges == {
        ("DOID:2", "is_a", "DOID:1"),
        ("DOID:1", "has_subclass", "DOID:2"),
        ("DOID:2", "part_of", "DOID:4"),
        ("DOID:4", "has_part", "DOID:2"),
        ("DOID:4", "is_a", "DOID:1"),
        ("DOID:1", "has_subclass", "DOID:4"),
    }
    assert concepts.frequency.shape == (3, 1)


@pytest.mark.parametrize("name", ["chest.obo.gz", "gzipped-all-the-same.obo"])
def test_gzipped_windows_and_marked_files_read_the_same(tmp_path, name):
    plain = read_obo(write(tmp_path, WHOLE))
    windows = b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode()
    assert read_obo(write(tmp_path, gzip.compress(windows), name)) == plain


def test_a_byte_order_mark_before_the_first_stanza_is_no_error(tmp_path):
    text = "[Term]\nid: X:1\nname: one\n"
    assert list(read_obo(write(tmp_path, b"\xef\xbb\xbf" + text.encode())).terms) == ["X:1"]


def test_kind_can_be_said_for_the_whole_file(tmp_path):
    assert {t.kind for t in read_obo(write(tmp_path, WHOLE), kind="finding").terms.values()} == {"finding"}


def term(tmp_path: Path, lines: str) -> Term:
    """What these lines say of the term X:2, which may be a kind of X:1."""
    return read_obo(write(tmp_path, f"[Term]\nid: X:1\n\n[Term]\nid: X:2\n{lines}\n")).terms["X:2"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("name: grippe ! the old word", "grippe"),
        ("name: grippe !the old word", "grippe"),
        ("name: grippe! the old word", "grippe"),
        (r"name: Ouch\! syndrome ! a real one", "Ouch! syndrome"),
        ('name: grippe {source="a ! b", comment="{c}"} ! the old word', "grippe"),
        ('name: grippe{source="a"}', "grippe"),
        (r"name: poly\{A\} tail", "poly{A} tail"),
        ("name: poly{A} tail", "poly{A} tail"),
        (r"name: tab\tblank\Wcolon\: quote\" backslash\\", 'tab\tblank colon: quote" backslash\\'),
        ('name: 5" and more', '5" and more'),
        ("name: a long \\\nname ! and \\! more", "a long name"),
        ("name: ends in a backslash\\\\\nxref: Y:1", "ends in a backslash\\"),
        ("name:grippe", "grippe"),
        ("! name: old\nname: grippe", "grippe"),
        ("! a comment that ends in \\\nname: grippe", "grippe"),
    ],
)
def test_comments_modifiers_and_escapes_of_a_name(tmp_path, line, name):
    assert term(tmp_path, line).name == name


@pytest.mark.parametrize(
    "line",
    [
        "is_a: X:1",
        "is_a: X:1 ! root",
        "is_a: X:1 !root",
        'is_a: X:1 {source="Y:2"} ! root',
        'is_a: X:1 {source="Y:2", comment="a ! in quotes, \\"and {braces}\\""} ! root {z}',
        'is_a: X:1 {is_inferred="true"}',
        "is_a: X:1   ",
        r"is_a: X\:1",
        "is_a: \\\nX:1",
    ],
)
def test_comments_and_modifiers_of_an_is_a(tmp_path, line):
    text = f"[Term]\nid: X:1\n\n[Term]\nid: X:2 ! two\n{line}\n\n[Term] ! another\nid: X:3\n"
    for ends in ("\n", "\r\n"):
        ontology = read_obo(write(tmp_path, text.replace("\n", ends)))
        assert ontology.edges == {("X:2", "is_a", "X:1"): 6}
        assert list(ontology.terms) == ["X:1", "X:2", "X:3"]


def test_quoted_texts_may_hold_what_ends_a_bare_one(tmp_path):
    read = term(
        tmp_path,
        'def: "Wow! {A} \\"b\\" ! c" [PMID:1 "x ! y"] {d="e"} ! f\n'
        'synonym: "Ouch! {x}" EXACT layperson [] {y="z"} ! w\n'
        'synonym: "near" RELATED []\n'
        'exact_synonym: "as OBO 1.0 had it" []\n'
        'xref: Y:1 "Really! {yes}" {a="b"} ! c\n'
        "xref_analog: Y:2",
    )
    assert read.definition == 'Wow! {A} "b" ! c'
    assert read.synonyms == ("Ouch! {x}", "as OBO 1.0 had it")
    assert read.xrefs == ("Y:1", "Y:2")


def test_other_stanzas_and_the_header_are_passed_over(tmp_path):
    text = (
        "format-version: 1.4\ndefault-namespace: human ! ours\nimport: http://else.where/x.owl\n"
        'subsetdef: s "S"\n\n[Typedef]\nid: X:1\nis_a: X:7\n\n[Instance]\nid: X:9\ninstance_of: X:1\n\n'
        '[Term]\nid: X:1\nname: one\nsubset: s\nproperty_value: a "b" xsd:string\n'
    )
    ontology = read_obo(write(tmp_path, text))
    assert list(ontology.terms) == ["X:1"]
    assert (ontology.terms["X:1"].name, ontology.terms["X:1"].namespace) == ("one", "human")
    assert not ontology.edges


ESCAPES = {"\n": r"\n", "\t": r"\t"} | {c: "\\" + c for c in '\\!{}":,()[]'}
# What a line of text may hold; a value's own blanks at its ends are not kept by the format.
texts = st.text(
    st.one_of(
        st.sampled_from([*list(ESCAPES), " ", "é", "漢"]), st.characters(min_codepoint=33, max_codepoint=126)
    ),
    min_size=1,
    max_size=12,
).filter(lambda text: text == text.strip())
comments = st.sampled_from(["", " ! x", " !y {z}", ' ! "q'])
modifiers = st.sampled_from(["", ' {a="b"}', ' {a="!", b="}"}', " {}"])


def escape(text: str) -> str:
    return "".join(ESCAPES.get(c, c) for c in text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts, texts, texts, modifiers, comments, st.sampled_from(["\n", "\r\n"]), st.data())
def test_whatever_is_escaped_comes_back(tmp_path, name, definition, synonym, modifier, comment, end, data):
    lines = [
        f"name: {escape(name)}{modifier}{comment}",
        f'def: "{escape(definition)}" [X:1 "x"]{modifier}{comment}',
        f'synonym: "{escape(synonym)}" EXACT []{modifier}{comment}',
        f"is_a: X:1{modifier}{comment}",
    ]
    where = data.draw(st.integers(0, len(lines[0])), label="where the name's line is continued")
    if not lines[0][:where].endswith("\\"):
        lines[0] = lines[0][:where] + "\\\n" + lines[0][where:]
    text = "\n".join(["[Term]", "id: X:1", "", "[Term]", "id: X:2", *lines, ""]).replace("\n", end)
    ontology = read_obo(write(tmp_path, text))
    read = ontology.terms["X:2"]
    assert (read.name, read.definition, read.synonyms) == (name, definition, (synonym,))
    assert list(ontology.edges) == [("X:2", "is_a", "X:1")]


def test_an_is_a_to_another_ontology_is_left_out_aloud(tmp_path):
    text = "[Term]\nid: HP:1\nis_a: UPHENO:1 ! phenotype\n\n[Term]\nid: HP:2\nis_a: HP:1\nis_a: BFO:2\n"
    with pytest.warns(UserWarning, match=r":3: 2 is_a to other ontologies are left out, .* HP:1 to UPHENO:1"):
        ontology = read_obo(write(tmp_path, text))
    assert ontology.edges == {("HP:2", "is_a", "HP:1"): 7}


@st.composite
def replacements(draw) -> tuple[dict[int, int], int]:
    """Each obsolete term's successor among n terms, at random; terms without one are current."""
    n = draw(st.integers(1, 7))
    return {i: draw(st.integers(0, n - 1)) for i in draw(st.sets(st.integers(0, n - 1)))}, n


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(replacements())
def test_replacements_are_followed_to_their_end_or_refused_where_they_circle(tmp_path, drawn):
    successor, n = drawn

    def end(i: int) -> int | None:
        for _ in range(n + 1):
            if i not in successor:
                return i
            i = successor[i]
        return None

    text = "".join(
        f"[Term]\nid: X:{i}\n"
        + (f"is_obsolete: true\nreplaced_by: X:{successor[i]}\n\n" if i in successor else "name: x\n\n\n")
        for i in range(n)
    )
    path = write(tmp_path, text)
    ends = {i: end(i) for i in range(n)}
    if None not in ends.values():
        terms = read_obo(path).terms
        assert current_ids(terms, path) == {f"X:{i}": f"X:{last}" for i, last in ends.items()}
        return
    with pytest.raises(OntologyError, match=r"replaced_by closes a cycle: X:\d -> ") as caught:
        read_obo(path)
    assert caught.value.line is not None
    i = caught.value.line // 5
    assert text.splitlines()[caught.value.line - 1] == f"replaced_by: X:{successor[i]}"
    assert ends[i] is None


def test_a_long_chain_of_replacements_needs_no_recursion(tmp_path):
    n = 5000
    text = "".join(f"[Term]\nid: X:{i}\nis_obsolete: true\nreplaced_by: X:{i + 1}\n\n" for i in range(n))
    path = write(tmp_path, text + f"[Term]\nid: X:{n}\n")
    assert set(current_ids(read_obo(path).terms, path).values()) == {f"X:{n}"}


TERM = "[Term]\nid: X:1\nname: one\n\n"  # 4 lines


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        pytest.param(TERM + "[Term\nid: X:2\n", 5, "broken stanza header", id="unclosed-header"),
        pytest.param(TERM + "[Term] x\nid: X:2\n", 5, "broken stanza header", id="words-behind-a-header"),
        pytest.param(TERM + "[Term]\nid: X:2\nname: a \\", 7, "is to be continued", id="continued-nowhere"),
        pytest.param(
            TERM + "[Term]\nid: X:2\nis_obsolete: yes\n", 7, "is_obsolete is 'yes', expected true", id="yes"
        ),
        pytest.param(
            TERM + "[Term]\nid: X:2\nis_obsolete: true\nreplaced_by: X:2\n", 8, "X:2 -> X:2", id="by-itself"
        ),
        pytest.param(TERM + "[]\nid: X:2\n", 5, "broken stanza header", id="empty-header"),
        pytest.param(TERM + "[Term]\nid: X:2\nthis is no tag\n", 7, "broken line", id="line-without-tag"),
        pytest.param(TERM + "[Term]\nid:\nname: two\n", 6, "without a value", id="id-without-value"),
        pytest.param(TERM + "[Term]\nname: two\n", 5, "missing id", id="missing-id"),
        pytest.param(TERM + "[Term]\nname: two\n\n" + TERM, 5, "missing id", id="missing-id-in-the-middle"),
        pytest.param(TERM + "[Term]\nid: X:2\nid: X:3\n", 7, "a second 'id'", id="two-ids"),
        pytest.param(TERM + "[Term]\nid: X:2\nname: a\nname: b\n", 8, "a second 'name'", id="two-names"),
        pytest.param(TERM + "[Term]\nid: X:2\ndef: bare words\n", 7, "double quotes", id="def-unquoted"),
        pytest.param(TERM + '[Term]\nid: X:2\nsynonym: "open\n', 7, "double quotes", id="synonym-unclosed"),
        pytest.param(TERM + "[Term]\nid: X:2\nrelationship: x\n", 7, "broken relationship", id="relation"),
        pytest.param(TERM + "\n" + TERM, 7, "duplicate id X:1, first on line 2", id="duplicate-id"),
        pytest.param(
            TERM + "[Term]\nid: X:2\nis_a: X:9 ! nine\n", 7, "unknown term X:9", id="unknown-parent"
        ),
        pytest.param(
            "[Term]\nid: X:1\nalt_id: X:9\n\n[Term]\nid: X:2\nis_a: X:9\n",
            7,
            "unknown term X:9; it is an alternative id of X:1",
            id="parent-by-an-alternative-id",
        ),
        pytest.param(
            "[Term]\nid: X:1\nis_obsolete: true\nreplaced_by: X:3\n\n[Term]\nid: X:2\nis_a: X:1\n",
            8,
            "X:2 is_a obsolete term X:1; it is replaced by X:3",
            id="obsolete-parent",
        ),
        pytest.param("[Term]\nid: X:1\nis_a: X:1\n", 3, "X:1 -> X:1", id="cycle-of-one"),
    ],
)
def test_a_broken_file_names_its_line(tmp_path, text, line, message):
    path = write(tmp_path, text)
    with pytest.raises(OntologyError) as caught:
        read_obo(path)
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert message in str(caught.value)


def test_a_cycle_names_an_is_a_that_closes_it_and_the_path(tmp_path):
    text = "".join(
        f"[Term]\nid: X:{child}\nis_a: X:{parent}\n\n" for child, parent in ((1, 2), (2, 3), (3, 4), (4, 2))
    )
    with pytest.raises(OntologyError, match=r"is_a closes a cycle: X:2 -> X:3 -> X:4 -> X:2$") as caught:
        read_obo(write(tmp_path, text))
    assert caught.value.line == 15
    assert text.splitlines()[15 - 1] == "is_a: X:2"


@pytest.mark.parametrize("text", ["", "format-version: 1.2\n"], ids=["empty", "header-only"])
def test_a_file_without_terms_is_refused(tmp_path, text):
    with pytest.raises(OntologyError, match=r"chest\.obo: no \[Term\] stanza"):
        read_obo(write(tmp_path, text))


def test_bytes_that_are_not_utf8_name_line_and_column(tmp_path):
    path = write(tmp_path, TERM.encode() + b"[Term]\nid: X:2\nname: M\xe9ni\xe8re\n")
    with pytest.raises(OntologyError, match=r":7: byte 0xe9 at column 8 is not UTF-8") as caught:
        read_obo(path)
    assert caught.value.line == 7


def many_terms(n: int = 3000) -> bytes:
    return "".join(f"[Term]\nid: X:{i}\nname: number {i * 7919 % 9973}\n\n" for i in range(n)).encode()


@pytest.mark.parametrize("part", [0.31, 0.77, 0.999])
def test_a_truncated_gz_names_the_line_it_ends_in(tmp_path, part):
    packed = gzip.compress(many_terms())
    packed = packed[: int(len(packed) * part)]
    readable = zlib.decompressobj(wbits=31).decompress(packed)  # what can be had of it, independently
    with pytest.raises(OntologyError, match="the compressed data ends early") as caught:
        read_obo(write(tmp_path, packed, "chest.obo.gz"))
    assert caught.value.line == readable.count(b"\n") + 1


def test_a_damaged_gz_is_told_from_a_truncated_one(tmp_path):
    packed = bytearray(gzip.compress(many_terms()))
    packed[-6] ^= 0xFF  # in the checksum
    with pytest.raises(OntologyError, match="the compressed data is damaged"):
        read_obo(write(tmp_path, bytes(packed), "chest.obo.gz"))


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_obo(tmp_path / "none.obo")
