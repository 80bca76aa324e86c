"""What a task.json or task.yaml may say, what it is read as, and how it is refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff.data.collate import Collator
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.folder import load_folder
from robustmdiff.data.task import Task
from robustmdiff.data.task_file import read_task_file, task_from
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.tensors import tensors
from robustmdiff.encoders.values import PanelEncoder
from robustmdiff.spelling import canonical


def task_of(modality: dict[str, Any] | None = None, field: dict[str, Any] | None = None, **keys) -> dict:
    """A task that is right, but for what a test puts in."""
    panel = {"name": "s", "kind": "values", "fields": [{"name": "x"} | (field or {})]}
    return {"modalities": [panel | (modality or {})], "classes": ["a", "b"]} | keys


def read(tmp_path, task: dict | str, name: str = "task.json") -> Task:
    path = tmp_path / name
    path.write_text(task if isinstance(task, str) else json.dumps(task), encoding="utf-8")
    return task_from(read_task_file(path), name, prevalence=(0.25, 0.75))


TEXT = {"name": "t", "kind": "text"}
FIELDS = {
    "a reference of one number": ({"reference": [5]}, ".reference is [5], expected a list of 2"),
    "of three": ({"reference": [1, 2, 3]}, ".reference is [1, 2, 3], expected a list of 2"),
    "a reference of texts": ({"reference": ["0", "5"]}, ".reference[0] is '0', expected a finite number"),
    "a reference that is text": ({"reference": "0-5"}, ".reference is '0-5', expected a list of 2"),
    "reversed": (
        {"reference": [5, 0]},
        "Field 'x': reference is (5, 0), expected two finite numbers",
    ),
    "of no width": ({"reference": [5, 5]}, "reference is (5, 5), expected two finite numbers, low < high"),
    "of no width in float32": ({"reference": [0, 1e-50]}, "reference is (0, 1e-50), expected two finite"),
    "too far for float32": ({"reference": [0, 1e39]}, "reference is (0, 1e+39), expected two finite"),
    "half a reference": ({"reference": [0, None]}, ".reference[1] is null, expected a finite number"),
    "NaN in a reference": ({"reference": [0, float("nan")]}, ".reference[1] is nan, expected a finite"),
    "infinity in a reference": ({"reference": [0, float("inf")]}, ".reference[1] is inf, expected a finite"),
    "true in a reference": ({"reference": [True, 5]}, ".reference[0] is true, expected a finite number"),
    "a reference of categories": ({"reference": [0, 1], "categories": ["a", "b"]}, "expected one of the two"),
    "numbers as categories": ({"categories": [1, 5]}, '.categories[0] is 1, expected text (in quotes: "1")'),
    "true as a category": (
        {"categories": ["no", True]},
        '.categories[1] is true, expected text (in quotes: "t',
    ),
    "null as a category": ({"categories": [None]}, ".categories[0] is null, expected text"),
    "categories that are text": ({"categories": "ab"}, ".categories is 'ab', expected a list"),
    "a category twice": ({"categories": ["a", "a"]}, "categories[1] is 'a', the same name as [0]"),
    "but for a blank": ({"categories": ["a  b", "a b"]}, "categories[1] is 'a b', the same name as [0]"),
    "but for a no-break space": ({"categories": ["a\u00a0b", "a b"]}, "categories[1] is 'a b', the same"),
    "but for Unicode": (
        {"categories": ["\u00e4", "a\u0308"]},
        "categories[1] is 'a\u0308', the same",
    ),
    "but for what is not seen": ({"categories": ["a", "a\u200b"]}, "categories[1] is 'a\\u200b', the same"),
    "an empty category": (
        {"categories": ["", "a"]},
        "categories[0] is '', expected a name that is",
    ),
    "a category of nothing seen": ({"categories": ["\u200b"]}, "expected a name that is"),
    "a blank before": (
        {"categories": [" F"]},
        "categories[0] is ' F', expected a name without blanks",
    ),
    "a category of two lines": (
        {"categories": ["a\nb"]},
        "categories[0] is 'a\\nb', expected a name",
    ),
    "half a surrogate pair": (
        {"categories": ["\ud800"]},
        "categories[0] is '\\ud800', expected a name",
    ),
    "a unit that is a number": ({"unit": 5}, '.unit is 5, expected text (in quotes: "5")'),
    "a unit that is null": ({"unit": None}, ".unit is null, expected text"),
    "a unit with a blank": ({"unit": "mg "}, "unit is 'mg ', expected text without blanks around it"),
    "a field without a name": ({"name": ""}, ": Field: name is '', expected a name that is"),
    "a field of a number": ({"name": 7}, ".name is 7, expected text"),
}
MODALITIES = {
    "two fields of a name": (
        {"fields": [{"name": "x"}, {"name": "x"}]},
        "fields[1] is 'x', the same name as",
    ),
    "fields that are a mapping": ({"fields": {"name": "x"}}, ".fields is {'name': 'x'}, expected a list"),
    "a field that is text": ({"fields": ["x"]}, " is 'x', expected a mapping with at least name"),
    "fields of a text": (
        {"kind": "text"},
        "Modality 's': fields is (Field(name='x...categories=()),), expected none: its kind is 'text'",
    ),
    "no fields": ({"fields": []}, "fields is empty, expected at least one Field"),
    "a kind of another type": ({"kind": 5}, ".kind is 5, expected text"),
    "a cost of NaN": ({"cost": float("nan")}, ".cost is nan, expected a finite number"),
    "a cost of infinity": ({"cost": float("inf")}, ".cost is inf, expected a finite number"),
    "a cost without end": ({"cost": 10**400}, "expected a positive number"),
    "a cost of text": ({"cost": "5"}, ".cost is '5', expected a finite number"),
    "a cost of 0": ({"cost": 0}, "Modality 's': cost is 0, expected a positive number"),
    "a cost of null": ({"cost": None}, ".cost is null, expected a finite number"),
    "an encoder of values": (
        {"encoder": "bert"},
        "encoder is 'bert', expected 'package.module:Class'",
    ),
    "an encoder without a name": ({"encoder": " "}, "Modality 's': encoder is ' ', expected a name that is"),
    "an encoder of a number": ({"encoder": 5}, ".encoder is 5, expected text"),
    "channels of values": ({"channels": ["a"]}, "channels is ('a',), expected none: its kind is 'values'"),
    "a shape of values": ({"shape": [1, 2, 3]}, "shape is (1, 2, 3), expected none: its kind is 'values'"),
}
TASKS = {
    "modalities that are a number": ({"modalities": 5}, "modalities is 5, expected a list"),
    "a modality that is text": ({"modalities": ["xray"]}, "modalities[0] is 'xray', expected a mapping"),
    "no modality": ({"modalities": []}, "modalities are none, expected at least one"),
    "two modalities of a name": (
        {"modalities": [{"name": "t", "kind": "text"}, {"name": "T", "kind": "text"}]},
        "modalities[1] is 't', the same",
    ),
    "classes with a number": ({"classes": ["a", 1]}, 'classes[1] is 1, expected text (in quotes: "1")'),
    "classes that collide": ({"classes": ["a", "a"]}, "classes[1] is 'a', the same name as [0]"),
    "an empty class": ({"classes": ["a", ""]}, "classes[1] is '', expected a name that is"),
    "rare twice": ({"rare": ["a", "a"]}, "rare[1] is 'a', the same name as [0]"),
    "rare unknown": ({"rare": ["c"]}, "rare names ['c'], expected some of the classes"),
    "rare null": ({"rare": None}, "rare is null, expected a list"),
    "findings twice": ({"findings": ["f", "g", "f"]}, "findings[2] is 'f', the same name as [0]"),
    "multilabel in words": ({"multilabel": "yes"}, "multilabel is 'yes', expected true or false"),
    "multilabel a number": ({"multilabel": 1}, "multilabel is 1, expected true or false"),
    "a prevalence of NaN": (
        {"prevalence": [float("nan"), 1]},
        "prevalence[0] is nan, expected a finite",
    ),
    "a prevalence of text": (
        {"prevalence": ["0.5", 0.5]},
        "prevalence[0] is '0.5', expected a finite",
    ),
    "prevalences beyond 1": (
        {"prevalence": [0.5, 0.7]},
        "which sums to 1.2, expected 1",
    ),
    "prevalences below 1": ({"prevalence": [0.5, 0.1]}, "which sums to 0.6, expected 1"),
    "one prevalence of two": ({"prevalence": [1]}, "prevalence is (1,), expected 2 numbers in [0, 1]"),
    "a mapping": (
        {"prevalence": {"a": 0.5, "b": 0.5}},
        "prevalence is {'a': 0.5, 'b': 0.5}, expected",
    ),
}


@pytest.mark.parametrize(("keys", "message"), FIELDS.values(), ids=FIELDS.keys())
def test_a_field_that_cannot_be_meant_is_refused_by_the_path_of_its_key(tmp_path, keys, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, task_of(field=keys))
    assert str(error.value).startswith("task.json: modalities[0].fields[0]")
    assert message in str(error.value)


@pytest.mark.parametrize(("keys", "message"), MODALITIES.values(), ids=MODALITIES.keys())
def test_a_modality_that_cannot_be_meant_is_refused_by_the_path_of_its_key(tmp_path, keys, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, task_of(keys))
    assert str(error.value).startswith("task.json: modalities[0]")
    assert message in str(error.value)


@pytest.mark.parametrize(("keys", "message"), TASKS.values(), ids=TASKS.keys())
def test_a_task_that_cannot_be_meant_is_refused_by_the_path_of_its_key(tmp_path, keys, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, task_of(**keys))
    assert str(error.value).startswith("task.json: ")
    assert message in str(error.value)


IMAGES = {
    "a floating shape": ({"shape": [1, 64.0, 64]}, "modalities[0].shape[1] is 64.0, expected a whole number"),
    "a shape of true": ({"shape": [True, 64, 64]}, "modalities[0].shape[0] is true, expected a whole number"),
    "a shape of text": ({"shape": "1x64x64"}, "modalities[0].shape is '1x64x64', expected a list"),
    "a shape of two": ({"shape": [64, 64]}, "shape is (64, 64), expected (channels, height, width)"),
    "a shape of 0": ({"shape": [1, 0, 64]}, "shape is (1, 0, 64), expected (channels, height, width)"),
    "no shape": ({}, "shape is None, expected (channels, height, width)"),
    "two names of one channel": (
        {"channels": ["T1w", "T2w"]},
        "is ('T1w', 'T2w'), expected 1 of them, or none",
    ),
    "a name that is a number": ({"channels": [1]}, "modalities[0].channels[0] is 1, expected text"),
    "a window of texts": ({"window": ["-1", "1"]}, "modalities[0].window[0] is '-1', expected a finite"),
    "a window reversed": ({"window": [1, -1]}, "window is (1, -1), expected two finite numbers, low < high"),
    "a window of NaN": ({"window": [float("nan"), 1]}, "modalities[0].window[0] is nan, expected a finite"),
    "a window without end": ({"window": [0, float("inf")]}, "modalities[0].window[1] is inf, expected a fin"),
    "a window of no width": ({"window": [0, 0]}, "window is (0, 0), expected two finite numbers, low < high"),
}


@pytest.mark.parametrize(("keys", "message"), IMAGES.values(), ids=IMAGES.keys())
def test_an_image_without_a_true_shape_or_window_is_refused(tmp_path, keys, message):
    shape = {"shape": [1, 64, 64]} if keys.keys() & {"window", "channels"} else {}
    with pytest.raises(DataError) as error:
        read(tmp_path, task_of(modalities=[{"name": "ct", "kind": "image"} | shape | keys]))
    assert message in str(error.value)


NAMES = ["a.b", "a:b", "a/b", "a\\b", "CT+C", "a=b", "a,b", " a", "a ", "", "values", "keys", "type", "train"]


@pytest.mark.parametrize("name", NAMES)
def test_a_modality_is_called_by_what_can_be_a_column_a_file_and_a_module(tmp_path, name):
    with pytest.raises(DataError, match=r"modalities\[0\]: Modality: name is .*, expected (a|another)"):
        read(tmp_path, task_of(modalities=[{"name": name, "kind": "text"}]))


def test_a_modality_is_not_called_like_a_column_of_another(tmp_path):
    modalities = [{"name": "notes", "kind": "text"}, {"name": "notes_file", "kind": "text"}]
    (tmp_path / "task.json").write_text(json.dumps(task_of(modalities=modalities)), encoding="utf-8")
    with pytest.raises(DataError, match="named 'notes_file', which is a column of its own"):
        load_folder(tmp_path)


@pytest.mark.parametrize("ignore", ["comment", 5, [5], None])
def test_ignore_is_a_list_of_columns(tmp_path, ignore):
    (tmp_path / "task.json").write_text(json.dumps(task_of(ignore=ignore)), encoding="utf-8")
    with pytest.raises(DataError, match=r"task\.json: ignore(\[0\])? is .*, expected (a list|text)"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", ["task.json", "task.yaml"])
def test_a_key_that_is_there_twice_is_refused(tmp_path, name):
    twice = '{"modalities": [{"name": "s", "kind": "text", "kind": "text"}], "classes": ["a", "b"]}'
    with pytest.raises(DataError, match=f"{name}: cannot be read .key 'kind' is there twice"):
        read(tmp_path, twice, name)


@pytest.mark.parametrize(("name", "text"), [("task.json", "[" * 100_000), ("task.yaml", "[" * 5_000)])
def test_what_is_nested_without_end_is_refused(tmp_path, name, text):
    with pytest.raises(DataError, match=r"is nested too deeply|cannot be read"):
        read(tmp_path, text, name)


@pytest.mark.parametrize(
    ("name", "text", "held"),
    [("task.json", "[1, null]", "[1, None]"), ("task.json", "null", "null"), ("task.json", "5", "5"),
     ("task.yaml", "", "null"), ("task.yaml", "yes", "'yes'"), ("task.yaml", "- a", "['a']")],
)  # fmt: skip
def test_a_file_that_holds_no_mapping_is_refused(tmp_path, name, text, held):
    with pytest.raises(DataError) as error:
        read(tmp_path, text, name)
    assert str(error.value) == (
        f"{tmp_path / name}: holds {held}, expected a mapping with 'modalities' and 'classes'"
    )


def test_names_that_differ_by_case_are_distinct_but_for_modalities(tmp_path):
    task = read(
        tmp_path, task_of({"fields": [{"name": "K"}, {"name": "k", "categories": ["AA", "Aa", "aa"]}]})
    )
    assert [field.name for field in task.modalities[0].fields] == ["K", "k"]
    assert task.modalities[0].fields[1].categories == ("AA", "Aa", "aa")


YAML = """
classes: [yes, no]
multilabel: false
modalities:
  - name: panel
    kind: values
    cost: 1e3
    fields:
      - {name: on, unit: , reference: [-1.5, +3], categories: []}
      - {name: 2024-01-01, reference: ~}
      - name: code
        categories: [yes, no, on, off, true, null, ~, 1, 07, 1_000, 12:30, 0x10, 2.0, 2024-01-01, "5"]
  - &xray {name: xray, kind: image, shape: [1, 8, 8], window: [-1000, 4.5e2]}
  - {<<: *xray, name: ct}
"""


def test_yaml_is_read_as_the_text_that_was_written_and_numbers_where_numbers_are_expected(tmp_path):
    """yaml.safe_load makes True of yes, 1000 of 1_000, 750 of 12:30, 7 of 07, a date of 2024-01-01."""
    categories = [
        "yes",
        "no",
        "on",
        "off",
        "true",
        "null",
        "~",
        "1",
        "07",
        "1_000",
        "12:30",
        "0x10",
        "2.0",
        "2024-01-01",
        "5",
    ]
    image = {"kind": "image", "shape": (1, 8, 8), "window": (-1000, 450.0)}
    assert read(tmp_path, YAML, "task.yaml") == Task(
        modalities=(
            Modality(
                "panel",
                "values",
                fields=(
                    Field("on", reference=(-1.5, 3)),
                    Field("2024-01-01"),
                    Field("code", categories=tuple(categories)),
                ),
                cost=1000.0,
            ),
            Modality("xray", **image),
            Modality("ct", **image),
        ),
        classes=("yes", "no"),
        prevalence=(0.25, 0.75),
    )


@pytest.mark.parametrize(
    "cost", ["1_000", "12:30", "0x10", "010", ".inf", ".nan", "yes", "'5'", "2024-01-01", "1e", ".", "-", "~"]
)
def test_yaml_that_is_no_decimal_number_is_none(tmp_path, cost):
    with pytest.raises(DataError, match=r"task\.yaml: modalities\[0\]\.cost is .*, expected a finite number"):
        read(tmp_path, f"classes: [a, b]\nmodalities: [{{name: s, kind: text, cost: {cost}}}]", "task.yaml")


@pytest.mark.parametrize(
    "tagged", ["!!int 5", "!!timestamp 2024-01-01", "!!binary aGk=", "!!bool yes", "[a]"]
)
def test_yaml_that_says_that_it_is_no_text_is_none(tmp_path, tagged):
    with pytest.raises(DataError, match=r"task\.yaml: modalities\[0\]\.name is .*, expected text"):
        read(tmp_path, f"classes: [a, b]\nmodalities: [{{name: {tagged}, kind: text}}]", "task.yaml")


LETTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs", "Cf"])


@settings(deadline=None)  # the first call imports
@given(st.lists(st.text(LETTERS, min_size=1), min_size=1, unique_by=canonical), st.booleans())
def test_a_task_written_as_json_or_yaml_is_read_as_it_was(names, as_yaml):
    panel = Modality("s", "values", fields=(Field("x", categories=tuple(names)),))
    task = Task((panel,), ("a", "b"), (0.25, 0.75))
    plain = json.loads(json.dumps(task.to_json()))
    text = yaml.safe_dump(plain, allow_unicode=True) if as_yaml else json.dumps(plain)
    with tempfile.TemporaryDirectory() as folder:
        assert read(Path(folder), text, "task.yaml" if as_yaml else "task.json") == task


def test_a_table_of_yes_and_no_and_of_numbers_that_are_names_reaches_the_model(tmp_path):
    (tmp_path / "task.yaml").write_text(
        "classes: [yes, no]\nmodalities: [{name: s, kind: values, fields: [{name: x, categories: [1, 2, 5]},"
        " {name: y, reference: [0, 5]}]}]",
        encoding="utf-8",
    )
    (tmp_path / "patients.csv").write_text(
        "id,label,s.x,s.y\np,yes,5,5\nq,no,1,2.5\nr,no,2,0\n", encoding="utf-8"
    )
    patients, task = load_folder(tmp_path)
    assert [patient.labels for patient in patients] == [{"yes": True}, {"no": True}, {"no": True}]
    batch = Collator(task)(patients)
    assert batch.inputs["s"].value.tolist() == [[2, 5], [0, 2.5], [1, 0]]
    encoder = PanelEncoder(task.modalities[0], ModelConfig(d_h=8, heads=2))
    assert torch.equal(encoder.centre, torch.tensor([2.5]))
    assert encoder(tensors(batch).inputs["s"])[0].isfinite().all()


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    (tmp_path / "task.json").write_text(json.dumps(task_of()), encoding="utf-8-sig")
    assert read_task_file(tmp_path / "task.json") == task_of()


def test_tasks_made_in_python_are_checked_too():
    with pytest.raises(ValueError, match=r"Field 'x': categories\[0\] is 1, expected text"):
        Field("x", categories=(1, 2))
    with pytest.raises(ValueError, match=r"Field 'x': reference is \('0', '5'\), expected two"):
        Field("x", reference=("0", "5"))
    with pytest.raises(ValueError, match=r"^Modality 's': fields\[1\] is 'x', the same name as \[0\]"):
        Modality("s", "values", fields=(Field("x"), Field("x")))
    with pytest.raises(ValueError, match=r"^Modality 'm': channels\[1\] is 'T1w', the same name as \[0\]"):
        Modality("m", "image", shape=(2, 8, 8), channels=("T1w", "T1w"))
    for modality, message in (
        (Modality("xray", "film"), "kind is 'film', expected 'image', 'text' or 'values'"),
        (Modality("xray", "image"), r"shape is None, expected \(channels, height, width\)"),
        (Modality("xray", "text", shape=(1, 8, 8)), "shape is .*, expected none: its kind is 'text'"),
    ):
        with pytest.raises(ValueError, match=f"^Modality 'xray': {message}"):
            Task((modality,), ("a", "b"), (0.5, 0.5))
