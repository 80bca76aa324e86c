from __future__ import annotations

import json
import re

import pytest

from robustmdiff.clinical.code_map import DCM, LOINC, CodeMap, names_of, read_code_map, said
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError
from robustmdiff.data.task import Task
from tests.clinical.patients import TASK

READ = {
    "labs.crp": {"codes": ["1988-5", "C-reactive protein"]},
    "labs.sex": {"codes": ["http://snomed.info/sct|734000001"], "categories": {"Female": "F"}},
    "notes": {"codes": ["11506-3"]},
    "xray": {"codes": ["DX", "CR"]},
}


@pytest.mark.parametrize(
    ("concept", "kind", "column"),
    [
        ({"coding": [{"system": LOINC, "code": "1988-5"}]}, "values", "labs.crp"),
        ({"text": " c-reactive  PROTEIN "}, "values", "labs.crp"),
        ({"coding": [{"display": "C-reactive protein"}]}, "values", "labs.crp"),
        ({"coding": [{"system": "http://hospital.example", "code": "1988-5"}]}, "values", None),
        ({"coding": [{"system": "http://snomed.info/sct", "code": "734000001"}]}, "values", "labs.sex"),
        ({"coding": [{"system": "http://snomed.info/sct", "code": "1988-5"}]}, "values", None),
        ({"coding": [{"system": DCM, "code": "CR"}]}, "image", "xray"),
        ({"text": "WBC"}, "values", "labs.wbc"),  # not named: by its own name
        ({"text": "crp"}, "values", None),  # named: by what the file says
        ({"coding": [{"system": LOINC, "code": "1988-5"}]}, "text", None),
        ({}, "values", None),
    ],
)
def test_a_concept_goes_to_its_column(concept, kind, column):
    found = CodeMap(TASK, READ).column(names_of([concept]), kind)
    assert (str(found) if found else None) == column


def test_codes_come_before_texts():
    concept = {"text": "WBC", "coding": [{"system": LOINC, "code": "1988-5", "display": "WBC"}]}
    assert str(CodeMap(TASK, READ).column(names_of([concept]), "values")) == "labs.crp"


def test_without_a_file_a_column_goes_by_its_own_name_where_no_other_has_it():
    panels = [Modality(name, "values", fields=(Field("ph"), Field(name[0]))) for name in ("blood", "urine")]
    code_map = CodeMap(Task(tuple(panels), ("a", "b"), (0.5, 0.5)))
    assert code_map.column([said("pH")], "values") is None
    assert str(code_map.column(["u"], "values")) == "urine.u"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        ({"labs.crq": {"codes": ["a"]}}, "unknown column 'labs.crq' (did you mean 'labs.crp'?)"),
        ({"labs": {"codes": ["a"]}}, "unknown column 'labs'"),
        ({"notes": ["a"]}, """'notes' is ['a'], expected {"codes": [one or more texts]}"""),
        ({"notes": {"codes": []}}, "'notes' is {'codes': []}, expected"),
        ({"notes": {"codes": [7]}}, "'notes' is {'codes': [7]}, expected"),
        ({"notes": {"codes": ["a"], "unit": "x"}}, "'notes': unknown key 'unit'"),
        (
            {"notes": {"codes": ["a"]}, "labs.crp": {"codes": ["A "]}},
            "'A ' is of 'notes' and of 'labs.crp', expected one column",
        ),
        (
            {"labs.sex": {"codes": ["a"], "categories": {"female": "W"}}},
            "'labs.sex': unknown category 'W', expected one of F, M",
        ),
        (
            {"labs.crp": {"codes": ["a"], "categories": {"female": "F"}}},
            "'labs.crp': unknown category 'F', the task declares no category",
        ),
        ({"labs.sex": {"codes": ["a"], "categories": "F"}}, "'labs.sex': categories is 'F', expected"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, read, message):
    path = tmp_path / "map.json"
    path.write_text(json.dumps(read), encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(f"map.json: {message}")):
        read_code_map(path, TASK)
