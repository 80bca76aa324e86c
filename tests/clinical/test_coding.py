"""The private codes of a report."""

from __future__ import annotations

from robustmdiff.clinical.coding import ANSWERS
from robustmdiff.diagnosis.contract import DRAWS, HEAD
from robustmdiff.diagnosis.model import FULL_VIEW_HEAD


def test_every_answer_that_a_model_may_give_has_a_code():
    assert ANSWERS.keys() == {HEAD, FULL_VIEW_HEAD, DRAWS}
    assert len({concept.code for concept in ANSWERS.values()}) == 3
