"""What a modality is: its name, its kind, and how its values are to be read."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from robustmdiff.data.names import check_modality_name, check_name, check_names
from robustmdiff.refusal import Refusal

SMALL, LARGE = 1e-30, 1e30  # widths and ends that float32 can divide by


@dataclass(frozen=True)
class Field:
    """One cell of a `values` modality: a laboratory value, a vital sign, a code, a genotype.

    A numeric field has a unit and, where known, a reference range (low, high) in that
    unit. A categorical field names its categories; a patient's value is one of them. Names are
    compared as `spelling.canonical` writes them. Raises ValueError for what cannot be meant.
    """

    name: str
    unit: str = ""
    reference: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name, "Field: name")
        where = f"Field {self.name!r}"
        if not isinstance(self.unit, str) or self.unit != self.unit.strip():
            raise Refusal(f"{where}: unit is {self.unit!r}, expected text without blanks around it")
        check_names(self.categories, f"{where}: categories")
        if self.reference is not None:
            check_range(self.reference, f"{where}: reference")
        if self.reference is not None and self.categories:
            raise Refusal(
                f"{where}: reference is {self.reference} and there are categories, expected one of the two"
            )


@dataclass(frozen=True)
class Modality:
    """A source of information about a patient, present or absent as a whole.

    Raises ValueError for what no kind could mean; what its kind asks for, the `Task` checks.

    kind      "image": float32 [channels, height, width] (CT slices and MRI contrasts are
              channels); "text": str; "values": mapping from field name to number or category;
              or another of `data.kinds.KINDS`.
    shape     image only: (channels, height, width).
    window    image only: the intensities (low, high) that map to -1 and 1, in the image's
              own unit (HU for CT); values outside are clipped, but those of the default, which
              is for shares of full scale, must not be. "file": each DICOM file's own.
    bits      image only: how many bits the files use whose samples are deeper than 8 bits, where
              that is fewer (12: 4095 counts as 1); None: all of the samples, or what the file says.
    channels  image only: what each channel shows ("T1w", "T2w"), for people to read; () where it has no name.
    fields    values only.
    encoder   None for the kind's own small encoder, a transformers `AutoModel` name or path,
              or "package.module:Class" for a user's own.
    cost      relative cost of obtaining it, for the ranking of the next test.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None = None
    window: tuple[float, float] | Literal["file"] = (0.0, 1.0)
    bits: int | None = None
    channels: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    encoder: str | None = None
    cost: float = 1.0

    def __post_init__(self) -> None:
        check_modality_name(self.name)
        where = f"Modality {self.name!r}"
        if self.window != "file":
            check_range(self.window, f"{where}: window")
        if self.bits is not None and not (type(self.bits) is int and 8 <= self.bits <= 32):
            raise Refusal(f"{where}: bits is {self.bits!r}, expected 8 to 32, or None")
        check_names(self.channels, f"{where}: channels")
        check_names([field.name for field in self.fields], f"{where}: fields")
        if self.encoder is not None:
            check_name(self.encoder, f"{where}: encoder")
        if not (is_number(self.cost) and 0 < self.cost < LARGE):
            raise Refusal(f"{where}: cost is {self.cost}, expected a positive number")

    @property
    def low_high(self) -> tuple[float, float]:
        """The intensities that map to -1 and 1; a file's own window has made them 0 and 1."""
        return (0.0, 1.0) if self.window == "file" else self.window


def channel_names(channels: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Of `count` channels, for people to read: as the task has them; else numbers, where there is more than
    one."""
    return channels or (tuple(f"channel {i} of {count}" for i in range(1, count + 1)) if count > 1 else ("",))


def is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_range(ends: Any, what: str) -> None:
    """ValueError, which begins with `what`, unless it is two finite numbers, low < high, that stay
    apart in float32."""
    low_high = isinstance(ends, tuple | list) and len(ends) == 2 and all(map(is_number, ends))
    if not low_high or not all(abs(end) < LARGE for end in ends) or ends[1] - ends[0] <= SMALL:
        raise Refusal(f"{what} is {ends}, expected two finite numbers, low < high")
