"""Concept tables: their rules, their parts, their union, and their file."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest

from robustmdiff.knowledge import ConceptTable, OntologyError, read_concepts, save_concepts
from robustmdiff.knowledge.archive import ARRAYS, STRINGS
from robustmdiff.knowledge.sparse import SparseTable

NAN = float("nan")


def table(**changes) -> ConceptTable:
    """disease d0 <- d1 <- d2 (is_a, with inverses), findings f0, f1; d2 has f1, d1 has f0."""
    fields = {
        "id": ("d0", "f0", "d1", "f1", "d2"),
        "name": ("disease", "cough", "pneumonia", "fever", "viral pneumonia"),
        "definition": ("", "", "of the lung", "", ""),
        "kind": ("disease", "finding", "disease", "finding", "disease"),
        "prevalence": np.array([NAN, NAN, 0.01, NAN, 0.002], np.float32),
        "source": np.array([2, 4, 4, 2, 0, 2, 3, 1], np.int64),
        "target": np.array([0, 2, 3, 1, 2, 4, 4, 2], np.int64),
        "relation": np.array([0, 0, 2, 2, 1, 1, 3, 3], np.int64),
        "relations": ("is_a", "has_subclass", "has_phenotype", "phenotype_of"),
        "frequency": np.array([[NAN, NAN], [0.895, NAN], [NAN, 0.17]], np.float32),
        "synonyms": ((), ("coughing",), (), (), ()),
        "xrefs": ((), (), ("ICD10CM:J18",), (), ()),
    }
    return ConceptTable(**(fields | changes))


def edges(t: ConceptTable) -> set[tuple[str, str, str]]:
    return {
        (t.id[s], t.relations[r], t.id[e]) for s, r, e in zip(t.source, t.relation, t.target, strict=True)
    }


def assert_equal(a: ConceptTable, b: ConceptTable) -> None:
    for field in dataclasses.fields(ConceptTable):
        mine, theirs = getattr(a, field.name), getattr(b, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype, field.name
            np.testing.assert_array_equal(mine, theirs, err_msg=field.name)
        else:
            assert mine == theirs, field.name


def test_a_sound_table_passes_and_is_handed_on():
    sound = table()
    assert sound.check() is sound


def test_an_empty_table_is_sound():
    none, empty = np.zeros(0, np.int64), np.zeros(0, np.float32)
    ConceptTable((), (), (), (), empty, none, none, none, (), SparseTable.empty(0, 0)).check()


def changed(name: str, index: int, value: float) -> dict[str, np.ndarray]:
    array = np.array(getattr(table(), name))
    array.flat[index] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"name": ("a",) * 4}, "name has 4 entries, expected 5", id="names"),
        pytest.param({"synonyms": ((),) * 4}, "synonyms has 4 entries, expected 5 or none", id="synonyms"),
        pytest.param({"id": ("d0", "f0", "d1", "f1", "d1")}, "id 'd1' appears twice", id="duplicate-id"),
        pytest.param(
            {"kind": ("disease", "finding", "disease", "finding", "gene")}, r"kind\[4\] is 'gene'", id="kind"
        ),
        pytest.param(
            {"prevalence": np.zeros(5)}, r"prevalence is float64 \[5\], expected float32 \[5\]", id="dtype"
        ),
        pytest.param(
            {"relation": np.zeros(7, np.int64)}, r"relation is int64 \[7\], expected int64 \[8\]", id="length"
        ),
        pytest.param(changed("source", 6, 5), r"source\[6\] is 5, expected 0 to 4", id="source-too-large"),
        pytest.param(changed("target", 1, -1), r"target\[1\] is -1, expected 0 to 4", id="target-negative"),
        pytest.param(changed("relation", 2, 4), r"relation\[2\] is 4, expected 0 to 3", id="relation"),
        pytest.param(
            {"frequency": np.zeros((2, 3), np.float32)},
            r"frequency is \[2, 3\], expected \[3, 2\]",
            id="transposed",
        ),
        pytest.param(changed("frequency", 3, 1.5), "frequency runs from .* to 1.5", id="frequency-over-1"),
        pytest.param(changed("prevalence", 0, -0.5), "prevalence runs from -0.5", id="prevalence-below-0"),
        pytest.param(changed("target", 0, 4), "is_a closes a cycle: d1 -> d2 -> d1", id="cycle"),
    ],
)
def test_a_broken_table_names_the_field_and_the_value(changes, message):
    with pytest.raises(ValueError, match=message):
        table(**changes).check()


def test_a_cycle_of_other_relations_is_no_error():
    table(
        relations=("part_of", "has_part", "has_phenotype", "phenotype_of"), **changed("target", 0, 4)
    ).check()


def test_csr_lists_the_edges_into_each_concept():
    t = table()
    rowptr, col, relation = t.csr()
    into = {
        (t.id[col[e]], t.relations[relation[e]], t.id[n])
        for n in range(len(t))
        for e in range(rowptr[n], rowptr[n + 1])
    }
    assert into == edges(t)


def test_a_subset_keeps_order_edges_and_frequencies():
    part = table().subset(["d2", "f0"], ancestors=False)
    assert part.id == ("f0", "d2")
    assert edges(part) == set()
    assert part.frequency.shape == (1, 1)
    assert np.isnan(part.frequency[0, 0])
    part.check()

    part = table().subset(["d2", "f0"])
    assert part.id == ("d0", "f0", "d1", "d2")
    assert edges(part) == {e for e in edges(table()) if "f1" not in e}
    np.testing.assert_array_equal(part.frequency, np.array([[NAN], [0.895], [NAN]], np.float32))
    np.testing.assert_array_equal(part.prevalence, table().prevalence[[0, 1, 2, 4]])
    assert part.synonyms == ((), ("coughing",), (), ())
    part.check()


def test_a_subset_can_bring_the_phenotypes_of_its_diseases():
    assert table().subset(["d2"], ancestors=False, phenotypes=True).id == ("f1", "d2")


def test_the_subset_of_everything_is_everything():
    assert_equal(table().subset(table().id), table())


def test_a_subset_of_an_unknown_id_is_refused():
    with pytest.raises(ValueError, match="subset: no concept 'd7'"):
        table().subset(["d0", "d7"])


def test_merging_a_table_with_itself_or_its_part_changes_nothing():
    assert_equal(table().merge(table()), table())
    assert_equal(table().merge(table().subset(["d2"])), table())


def test_a_merge_unites_rows_edges_and_frequencies_and_the_first_word_stands():
    none = np.zeros(0, np.int64)
    other = ConceptTable(
        id=("f2", "d2", "d3"),
        name=("chill", "virus in the lung", "flu"),
        definition=("", "by a virus", ""),
        kind=("finding", "disease", "disease"),
        prevalence=np.array([NAN, 0.9, 0.1], np.float32),
        source=np.array([2], np.int64),
        target=np.array([1], np.int64),
        relation=np.array([0], np.int64),
        relations=("is_a",),
        frequency=np.array([[0.3], [0.7]], np.float32),
    )
    both = table().merge(other)
    assert both.id == ("d0", "f0", "d1", "f1", "d2", "f2", "d3")
    assert both.name[4] == "viral pneumonia"
    assert both.synonyms[4] == ("virus in the lung",), "the other name is not lost"
    assert both.definition[4] == "by a virus"
    assert both.prevalence[4] == np.float32(0.002)
    assert edges(both) == edges(table()) | {("d3", "is_a", "d2")}
    expected = [[NAN, NAN, NAN], [0.895, NAN, NAN], [NAN, 0.17, 0.3], [NAN, NAN, 0.7]]
    np.testing.assert_array_equal(both.frequency, np.array(expected, np.float32))

    swapped = other.merge(table())
    assert swapped.prevalence[swapped.id.index("d2")] == np.float32(0.9)
    louder = table(
        definition=("x",) * 5, frequency=np.array([[NAN, NAN], [0.1, 0.2], [NAN, NAN]], np.float32)
    )
    expected = [[NAN, NAN], [0.895, 0.2], [NAN, 0.17]]
    assert table().merge(louder).definition == ("x", "x", "of the lung", "x", "x")
    np.testing.assert_array_equal(table().merge(louder).frequency, np.array(expected, np.float32))

    nameless = dataclasses.replace(other, name=("f2", "d2", "d3"), source=none, target=none, relation=none)
    assert nameless.merge(table()).name[1] == "viral pneumonia", "a name that repeats the id says nothing"


def test_a_merge_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="f0 is a finding here and a disease there"):
        table().merge(
            table(
                kind=("disease", "disease", "disease", "finding", "disease"),
                frequency=np.full((4, 1), NAN, np.float32),
            )
        )
    upside_down = table(source=table().target, target=table().source)
    with pytest.raises(ValueError, match="is_a closes a cycle"):
        table().merge(upside_down)


def test_a_table_of_any_size_takes_the_memory_of_its_entries():
    """Dense, this one would be 36 GB."""
    shape = (100_000, 90_000)
    row, column = np.array([99_999, 3, 3]), np.array([89_999, 7, 0])
    many = SparseTable.of(shape, row, column, np.array([0.5, 0.25, 1.0]))
    assert many[99_999, 89_999] == 0.5
    assert (many[3, 7], many[3, 0]) == (0.25, 1.0)
    assert np.isnan(many[3, 1])
    assert sum(array.nbytes for array in (many.rowptr, many.column, many.value)) < 1e6


def test_a_dense_array_of_frequencies_is_taken_and_kept_sparsely():
    dense = np.array([[NAN, NAN], [0.5, NAN], [NAN, 0.0]], np.float32)
    for array in (dense, dense.astype(np.float64), dense.T.copy().T):
        t = table(frequency=array).check()
        assert t.frequency == SparseTable.of((3, 2), np.array([1, 2]), np.array([0, 1]), np.array([0.5, 0]))
        assert t.frequency.value.dtype == np.float32
    unknown = np.full_like(table().frequency, NAN)
    assert table(frequency=unknown).frequency == SparseTable.empty(3, 2)


@pytest.mark.parametrize("stated", [True, False], ids=["with-frequencies", "without"])
def test_a_saved_table_comes_back_equal(tmp_path, stated):
    saved = table() if stated else table(frequency=SparseTable.empty(3, 2), synonyms=(), xrefs=())
    save_concepts(saved, tmp_path / "concepts.npz")
    assert_equal(read_concepts(tmp_path / "concepts.npz"), saved)
    assert os.listdir(tmp_path) == ["concepts.npz"]


def test_the_file_of_a_table_is_read_as_it_was_always_written(tmp_path):
    """Entries in any order, as runs saved before frequencies were sparse in memory have them."""
    t = table()
    strings = {name: getattr(t, name) for name in STRINGS} | {"format": 1}
    np.savez_compressed(
        tmp_path / "old.npz",
        **{name: getattr(t, name) for name in ARRAYS},
        frequency_shape=np.array([3, 2]),
        frequency_row=np.array([2, 1]),
        frequency_column=np.array([1, 0]),
        frequency_value=np.array([0.17, 0.895], np.float32),
        json=np.frombuffer(json.dumps(strings).encode(), np.uint8),
    )
    assert_equal(read_concepts(tmp_path / "old.npz"), t)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "concepts.npz"
    save_concepts(table(), path)

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_concepts(table(name=("x",) * 5), path)
    assert_equal(read_concepts(path), table())
    assert os.listdir(tmp_path) == ["concepts.npz"]


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_table_names_the_file(tmp_path, keep):
    path = tmp_path / "concepts.npz"
    save_concepts(table(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(OntologyError, match=r"concepts\.npz: not a saved concept table, or damaged"):
        read_concepts(path)


def test_another_npz_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.arange(3))
    with pytest.raises(OntologyError, match="not a saved concept table"):
        read_concepts(tmp_path / "other.npz")
