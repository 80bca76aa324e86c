"""What tests, benchmarks and other people's backends share: situations of each op, and the contracts.

from robustmdiff.testing import all_cases, check_contracts

for case in all_cases():  # on a GPU with RMD_TEST_DEVICE=cuda
    if case.op == "graph_attention":
        check_contracts(case, "mine")
"""

from robustmdiff.testing.backends import backends_under_test
from robustmdiff.testing.case import DEVICE, Case, draw
from robustmdiff.testing.cases import OPS, all_cases
from robustmdiff.testing.contracts import check_contracts

__all__ = ["Case", "DEVICE", "OPS", "all_cases", "backends_under_test", "check_contracts", "draw"]
