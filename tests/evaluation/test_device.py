from __future__ import annotations

import numpy as np

from robustmdiff.data.collate import Collator
from robustmdiff.evaluation.protocol import evaluate
from tests import elsewhere
from tests.elsewhere import TASK, Reader, ward


def test_models_are_evaluated_where_they_are():
    """One on an accelerator beside one on the CPU; answers are the same."""
    here, there = Reader(), Reader()
    with elsewhere.available():
        there.move()
        found = evaluate({"here": here, "there": there}, ward(70), Collator(TASK), TASK, replicates=3)
    assert there.weight.device == elsewhere.DEVICE
    for condition, probability in found.probability["here"].items():
        np.testing.assert_array_equal(found.probability["there"][condition], probability)
