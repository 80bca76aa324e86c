"""What is taken away from patients before they are diagnosed: the conditions of the evaluation.

A condition has a label for people and a key for files ("mcar/0.5", "kept1/0.5", "subset/ct+notes"), from
which `condition_of` makes it again. In a key, "+" and "%" within the name of a modality are written as in
a URL (%2B and %25), so that names may hold anything.
"""

from __future__ import annotations

from dataclasses import dataclass


def _check_rate(what: str, rate: float) -> None:
    if not 0 < rate < 1:
        raise ValueError(f"{what}: rate is {rate}, expected a number between 0 and 1")


@dataclass(frozen=True)
class Complete:
    """Nothing is taken away: everything that was observed."""

    rate = 0.0  # where both sweeps begin

    @property
    def key(self) -> str:
        return "mcar/0.0"

    @property
    def label(self) -> str:
        return "all that was observed"


@dataclass(frozen=True)
class MCAR:
    """Every modality is taken away with probability `rate`, independently (missing completely at random:
    Rubin 1976). With `at_least_one` a patient left with nothing keeps one of those present, at random."""

    rate: float
    at_least_one: bool = False

    def __post_init__(self) -> None:
        _check_rate("MCAR", self.rate)

    @property
    def key(self) -> str:
        return f"{'kept1' if self.at_least_one else 'mcar'}/{self.rate}"

    @property
    def label(self) -> str:
        return f"missing {self.rate:g}{', one kept' if self.at_least_one else ''}"


@dataclass(frozen=True)
class MNAR:
    """A modality is taken away with probability `rate` in the mean over the population, in a way that depends
    on how ill a patient is, which nobody observes (missing not at random: Rubin 1976). Which way is part of
    the data: of the built-in cohort it is known (`Cohort.mask`)."""

    rate: float

    def __post_init__(self) -> None:
        _check_rate("MNAR", self.rate)

    @property
    def key(self) -> str:
        return f"mnar/{self.rate}"

    @property
    def label(self) -> str:
        return f"missing {self.rate:g}, by severity"


@dataclass(frozen=True)
class Subset:
    """Only the modalities of these names are left."""

    names: tuple[str, ...]

    @property
    def key(self) -> str:
        return "subset/" + "+".join(map(_escaped, self.names))

    @property
    def label(self) -> str:
        return ", ".join(self.names)


Sweep = Complete | MCAR
Condition = Sweep | MNAR | Subset
COMPLETE = Complete()
MNAR_HALF = MNAR(0.5)


def mcar(rate: float, at_least_one: bool = False) -> Sweep:
    """A place in one of the two sweeps; at rate 0 both begin with what is complete."""
    return MCAR(rate, at_least_one) if rate else COMPLETE


def condition_of(key: str) -> Condition:
    """The condition of a key. Raises ValueError for what is none."""
    sweep, _, rest = key.partition("/")
    if sweep == "subset":
        return Subset(tuple(map(_unescaped, rest.split("+"))))
    if sweep in ("mcar", "kept1", "mnar"):
        try:
            rate = float(rest)
            return MNAR(rate) if sweep == "mnar" else mcar(rate, at_least_one=sweep == "kept1")
        except ValueError:
            pass
    raise ValueError(f"condition is {key!r}, expected one such as 'mcar/0.5', 'kept1/0.5' or 'subset/a+b'")


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace("+", "%2B")


def _unescaped(name: str) -> str:
    return name.replace("%2B", "+").replace("%25", "%")
