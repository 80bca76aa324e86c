from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff.data.tables.units import SAME, conversion

ALIKE = [  # spellings of one unit, in each row
    ("mg/l", "mg/L", "mg / l", "mg·l⁻¹", "µg/ml"),
    ("µg/l", "\u00b5g/L", "\u03bcg/l", "ug/l", "mcg/L", "ng/ml"),
    ("10^9/l", "10⁹/L", "10*9/L", "10**9/l", "x10^9/L", "× 10^9 / l", "10^3/µl", "1000/ul", "/nl", "1/nl"),
    ("10^9/l", "10^3/mm3", "10³/mm³", "G/l", "Gpt/l", "K/uL", "thou/µl", "{cells}/nL", "cells/nl", "#/nL"),
    ("mmHg", "mm Hg", "mm[Hg]", "torr"),
    ("cmH2O", "cm H2O", "cm[H2O]"),
    ("°C", "℃", "degC", "Celsius", "Cel", "° C"),
    ("°F", "degF", "[degF]", "fahrenheit"),
    ("bpm", "/min", "1/min", "beats/min", "breaths/min", "insp/min", "beats per minute"),
    ("years", "year", "y", "yr", "a"),
    ("mIU/l", "m[IU]/L", "µIU/ml", "IU/m3"),
    ("U/l", "U/L", "mU/ml", "µmol/min/l"),
    ("mEq/l", "meq/L", "mval/l"),
    ("mmol/l", "mM", "µmol/ml", "mol/m3"),
    ("kg/m2", "kg/m²", "kg/m^2"),
    ("ml/min/1.73m2", "mL/min/1.73 m²", "ml/min/1.73m^2"),
    ("mosm/kg", "mOsm/kg", "mosmol/kg"),
    ("mg/L FEU", "mg/l FEU", "mg/L{FEU}", "µg/ml FEU"),
    ("h", "hr", "hours"),
    ("ml", "mL", "cc", "cm3", "cm³"),
    ("lb", "lbs", "pounds"),
    ("mg/mmol", "g/mol"),
    ("score", "score", " score"),
]


@pytest.mark.parametrize("spellings", ALIKE, ids=lambda row: row[-1])
def test_spellings_of_one_unit_are_one_unit(spellings):
    for one in spellings:
        for other in spellings:
            assert conversion(one, other) == SAME, (one, other)


FACTORS = [  # of each: a value, and what it is in the other unit, from the definitions of the units
    (8.4, "mg/dl", 84.0, "mg/l"),
    (14.2, "g/dl", 142.0, "g/l"),
    (35.0, "mmHg", 35 * 0.133322387415, "kPa"),
    (10.0, "cmH2O", 0.980665, "kPa"),
    (50.0, "U/l", 50 / 60, "µkat/l"),
    (98.6, "°F", 37.0, "°C"),
    (37.0, "°C", 98.6, "°F"),
    (-40.0, "°F", -40.0, "°C"),
    (310.15, "kelvin", 37.0, "°C"),
    (4.2, "T/l", 4.2, "10^6/µl"),
    (350.0, "/µl", 0.35, "G/l"),
    (95.0, "%", 0.95, "l/l"),
    (12.0, "‰", 1.2, "%"),
    (18.0, "months", 1.5, "years"),
    (72.0, "in", 182.88, "cm"),
    (150.0, "lb", 68.0388555, "kg"),
    (1.2, "Hz", 72.0, "bpm"),
    (90.0, "ml/min/1.73m2", 1.5, "ml/s/1.73m2"),
    (500.0, "ng/ml FEU", 0.5, "mg/l FEU"),
]


@pytest.mark.parametrize(("value", "unit", "expected", "into"), FACTORS)
def test_a_value_is_what_the_definitions_of_the_units_make_of_it(value, unit, expected, into):
    assert conversion(unit, into)(value) == pytest.approx(expected, rel=1e-15, abs=1e-13)


@settings(deadline=None)  # the first call imports
@given(st.sampled_from(FACTORS), st.floats(-1e6, 1e6, width=32, allow_subnormal=False))
def test_there_and_back_is_where_one_was(units, value):
    _, unit, _, into = units
    there, back = conversion(unit, into), conversion(into, unit)
    # Each way rounds the factor, the product and the sum by half a unit in the last place.
    largest = max(abs(value), abs(back.offset), abs(back.factor * there.offset))
    assert abs(back(there(value)) - value) <= 6 * 2**-53 * 2 * largest


OTHERWISE = [
    ("mg/dl", "mmol/l", "differ by a molar mass, which is not known"),
    ("µmol/l", "mg/dl", "differ by a molar mass, which is not known"),
    ("g/l", "mmol", "differ by a molar mass, which is not known"),
    ("mmol/mol", "%", "measure different things"),  # HbA1c: 53 mmol/mol is 7 %, not 5.3 %
    ("mEq/l", "mmol/l", "measure different things"),
    ("IU/l", "U/l", "measure different things"),
    ("mosm/l", "mosm/kg", "measure different things"),
    ("mg/l FEU", "mg/l DDU", "measure different things"),
    ("mg/l FEU", "mg/l", "measure different things"),
    ("%", "10^9/l", "measure different things"),
    ("cells", "%", "measure different things"),
    ("°C", "mmHg", "measure different things"),
    ("mm/h", "mm", "measure different things"),
    ("", "mg/l", "one of the two states no unit"),
    ("%", "", "one of the two states no unit"),
    ("1", " ", "one of the two states no unit"),
    ("score", "points", "'score' is no unit that is known here, and only equals itself"),
    ("mg/l", "mgg/l", "'mgg/l' is no unit"),
    ("INR", "%", "'INR' is no unit"),
    ("HU", "1", "'HU' is no unit"),
    ("10E9/l", "10^9/l", "'10E9/l' is no unit"),  # ten to the ninth, or 10 times that?
    ("mg/100 ml", "mg/dl", "'mg/100 ml' is no unit"),
    ("°C/min", "°F/min", "'°C/min' is no unit"),
    ("9^9^9^9", "1", "'9^9^9^9' is no unit"),
    ("mg/", "mg", "'mg/' is no unit"),
    ("(mg)/l", "mg/l", "is no unit"),
    ("__import__('os')", "1", "is no unit"),
    ("and", "mg", "'and' is no unit"),
    ("lambda", "mg", "'lambda' is no unit"),
    ("mg in", "mg", "measure different things"),
]


@pytest.mark.parametrize(("unit", "into", "reason"), OTHERWISE)
def test_what_cannot_be_converted_is_refused_with_the_reason(unit, into, reason):
    with pytest.raises(ValueError, match=reason.replace("(", r"\(").replace("^", r"\^")):
        conversion(unit, into)


def test_no_unit_is_no_unit():
    assert conversion("", " ") == SAME


@settings(deadline=None)  # the first call imports
@given(st.text(max_size=12), st.sampled_from(["mg/l", "%", "1"]))
def test_any_text_is_converted_or_refused(text, unit):
    try:
        convert = conversion(text, unit)
    except ValueError:
        return
    assert math.isfinite(convert.factor)
    assert convert.factor > 0


def test_pint_is_imported_only_where_units_differ():
    code = (
        "import sys; from robustmdiff.data.tables.units import conversion; conversion('mg/l', 'mg/l'); "
        "assert 'pint' not in sys.modules; conversion('mg/l', 'mg/L'); assert 'pint' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
