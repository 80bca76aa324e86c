"""The tables of kinds name the same kinds."""

from __future__ import annotations

from typing import get_args

from robustmdiff.data.kinds import KINDS
from robustmdiff.data.task import Kind
from robustmdiff.encoders.kinds import ENCODERS
from robustmdiff.explanation.parts import PARTS


def test_there_is_an_encoder_and_an_explanation_of_every_kind():
    assert ENCODERS.keys() == PARTS.keys() == KINDS.keys() == set(get_args(Kind))
