"""The kinds of a modality, one file each. A kind more is a file here with a line in KINDS, and its encoder
with a line in the encoders' table (docs/adding_a_kind.md)."""

from __future__ import annotations

from robustmdiff.data.kinds.image import Image
from robustmdiff.data.kinds.kind import Kind
from robustmdiff.data.kinds.text import Text
from robustmdiff.data.kinds.values import Values

KINDS: dict[str, Kind] = {"image": Image(), "text": Text(), "values": Values()}
