"""Units as clinics write them, and what converts a value from one to another (pint does the work)."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

# Units of the bedside and the laboratory, and no others: pint's own list reads G/l as gauss, T/l as
# tesla, K/µl as kelvin and points as a length. What is not here is no unit, and equals only itself.
# U (µmol/min) and IU stand apart: for enzymes they are one, for antibodies and hormones they are not.
DEFINITIONS = """
tera- = 1e12 = T-
giga- = 1e9 = G-
mega- = 1e6 = M-
kilo- = 1e3 = k-
hecto- = 1e2 = h-
deci- = 1e-1 = d-
centi- = 1e-2 = c-
milli- = 1e-3 = m-
micro- = 1e-6 = µ- = μ- = u- = mc-
nano- = 1e-9 = n-
pico- = 1e-12 = p-
femto- = 1e-15 = f-

meter = [length] = m = metre
inch = 2.54 * centimeter = in
foot = 12 * inch = ft
gram = [mass] = g
pound = 453.59237 * gram = lb
ounce = pound / 16 = oz
liter = 1e-3 * meter ** 3 = l = L = litre
cubic_centimeter = 1e-3 * liter = cc
second = [time] = s = sec
minute = 60 * second = min
hour = 60 * minute = h = hr
day = 24 * hour = d
week = 7 * day = wk
year = 365.25 * day = a = y = yr
month = year / 12 = mo
hertz = count / second = Hz
volt = [potential] = V
pascal = [pressure] = Pa
bar = 1e5 * pascal
millimeter_Hg = 133.322387415 * pascal = mmHg = torr = Torr
centimeter_H2O = 98.0665 * pascal = cmH2O

mole = [substance] = mol
millimolar = 1e-3 * mole / liter = mM
micromolar = 1e-6 * mole / liter = µM = μM = uM
nanomolar = 1e-9 * mole / liter = nM
picomolar = 1e-12 * mole / liter = pM
osmole = [osmoles] = osm = Osm = osmol = Osmol
equivalent = [equivalents] = Eq = eq = val
enzyme_unit = 1e-6 * mole / minute = U
katal = mole / second = kat
international_unit = [international_units] = IU = IE = UI

count = [count] = _ = cell = beat = breath = insp = copy = copies
beats_per_minute = count / minute = bpm
thousand = 1e3 * count = K = thou
million = 1e6 * count
giga_count = 1e9 * count = G = Gpt
tera_count = 1e12 * count = T = Tpt
percent = 0.01
permille = 0.001 = ‰
ppm = 1e-6
ppb = 1e-9
FEU = [fibrinogen_equivalents]
DDU = [dimer_equivalents]
standard_surface = 1.73 * meter ** 2

kelvin = [temperature]; offset: 0
degree_Celsius = kelvin; offset: 273.15 = degreeC = degC = celsius = Celsius = Cel = C
degree_Fahrenheit = 5 / 9 * kelvin; offset: 233.15 + 200 / 9 = degreeF = degF = fahrenheit = Fahrenheit = F
"""
SPELLINGS = (  # clinical ways to write, to what pint reads
    (r"\[([^\[\]]*)\]", r"\1"),  # UCUM: mm[Hg], m[IU]/L
    (r"\{([^{}]*)\}", r" \1 "),  # UCUM: {cells}/uL, mg/L{FEU}
    (r"\b(mm|cm)\s+(Hg|H2O)\b", r"\1\2"),
    (r"1\.73\s*m(\^|\*\*)?2", "standard_surface"),
    (r"(?<![^\W\d])([cdm]?m)([23])\b", r"\1^\2"),  # kg/m2
    (r"^[x×*]?\s*10\s*(?:\^|\*\*?)\s*(-?\d+)(?=\D|$)", r"1e\1"),  # x10^9/l, 10*9/L
    (r"^#", "count"),  # #/µl
    (r"^((?:1(?:0*|e\d+))?) ?/", r"\1 count/"),  # 10^9/l, /nl: so many of something
    (r"·", "*"),
    (r"\bper\b", "/"),  # beats per minute
    (r"°\s+", "°"),
    (r"\s+", " "),
)
# A power of ten, then products and quotients of names with small powers: nothing else reaches pint's
# parser of expressions, which would read mg/100 ml as (mg/100) ml.
NAME = r"(?:[^\W\d]\w*|°[CF]|[%‰])(?:\^-?\d)?"
PRODUCT = re.compile(
    rf"(?:1(?:0{{1,6}}|e-?\d{{1,2}})?(?: ?[/*] ?| |$))?(?:{NAME}(?: ?[/*] ?{NAME}| {NAME})*)?"
)


class Conversion(NamedTuple):
    """x in one unit is `factor * x + offset` in the other; the two are rounded once."""

    factor: float
    offset: float

    def __call__(self, x: float) -> float:
        return self.factor * x + self.offset


SAME = Conversion(1.0, 0.0)


def conversion(unit: str, into: str) -> Conversion:
    """What takes a value in `unit` to one in `into`.

    Spellings of one unit (mg/l, mg/L; µg, ug, mcg; 10^9/l, G/l, /nl) are the same. ValueError, with the
    reason, for units that measure different things (mg/dl and mmol/l differ by a molar mass) and, unless
    both are written alike, for what is no unit that is known here ("score", or no unit at all).
    """
    if _spelled(unit) == _spelled(into):
        return SAME
    x, y = _quantity(unit), _quantity(into)
    for quantity, text in ((x, unit), (y, into)):
        if not text.strip():
            raise ValueError("one of the two states no unit")
        if quantity is None:
            raise ValueError(f"{text!r} is no unit that is known here, and only equals itself")
    if x.dimensionality.keys() ^ y.dimensionality.keys() >= {"[mass]", "[substance]"}:
        raise ValueError("they differ by a molar mass, which is not known")
    if x.dimensionality != y.dimensionality or _of_amounts(x) != _of_amounts(y):
        raise ValueError("they measure different things")
    offset = _converted(Fraction(0), x, y)
    return Conversion(float(_converted(Fraction(1), x, y) - offset), float(offset))


def _of_amounts(quantity: Any) -> bool:
    """Whether it is mol/mol, which is a share of another kind: an HbA1c of 53 mmol/mol is one of 7 %."""
    return quantity.dimensionless and any(name.endswith("mole") for name, _ in quantity.unit_items())


def _converted(value: Fraction, x: Any, y: Any) -> Fraction:
    """Exactly: the registry counts in fractions."""
    return _registry().Quantity(value * x.magnitude, x.units).m_as(y.units) / y.magnitude


def _spelled(unit: str) -> str:
    """The unit with its typography undone: 10⁹/l is 10^9/l, ℃ is °C, the two signs for µ are one."""
    powers = re.sub("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: "^" + found[0].replace("⁻", "-"), unit)
    text = unicodedata.normalize("NFKC", powers).strip()
    for written, read in SPELLINGS:
        text = re.sub(written, read, text).strip()
    return text


@lru_cache(maxsize=256)
def _quantity(unit: str) -> Any:
    """The unit as a pint quantity (10^9/l has a magnitude); None for what is none."""
    from pint.errors import PintError

    text = _spelled(unit)
    if not text or not PRODUCT.fullmatch(text):
        return None
    try:
        quantity = _registry().Quantity(text)
        _converted(Fraction(1), quantity, quantity)
    except PintError:
        return None
    return quantity


@lru_cache(maxsize=1)
def _registry() -> Any:
    from pint import UnitRegistry

    registry: Any = UnitRegistry(None, non_int_type=Fraction, on_redefinition="raise")
    registry.load_definitions(DEFINITIONS.splitlines())
    return registry
