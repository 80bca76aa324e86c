"""The kernels in Triton's interpreter: `make interpret` runs what differs for a kernel, `make test-slow`
everything."""

from __future__ import annotations

import pytest

# Of the contracts, those that say something about a kernel: threads do not exist in the interpreter,
# bfloat16 is wrong in it, and the kernels round the softmax weights to 16 bits where the inputs have 16.
CONTRACTS = "triton and not float64 and not bfloat16 and not threads and not strides and not sums_are"
DDPM = "triton and not bfloat16 and not transforms"
OPS = {
    "masked_attention": ["test_masked_attention"],
    "graph_attention": ["test_graph_attention"],
    "knowledge_attention": ["test_knowledge_attention", "test_bfloat16"],
}
FILES = [f"tests/ops/test_{name}.py" for name in ("contracts", "degenerate", "gradients")]
FILES_OF_DDPM = ["tests/ops/ddpm/test_step.py", "tests/ops/ddpm/test_noise.py"]

# Masked attention takes longest. Its kernels are compiled for an affinity or none, a modality that excludes
# itself or does not, heads that share keys or do not, and a dtype: each is here on both sides, as is each
# shape at which a loop ends.
SHAPES = "packed or left-padded or one-token or nothing-present or no-tokens"
MASKED = (
    f"test_output and float32 and ({SHAPES} or exclude-own or affinity-shared or learned)"
    " or test_output and float16 and (affinity-exclude-own or learned)"
    " or test_absent and (affinity-exclude-own or learned or packed or left-padded)"
    " or test_rows and (affinity-exclude-own or learned or nothing-present)"
    " or undefined"
)
DRAWN = (
    "test_graphs or test_concepts or test_patients"  # by hypothesis, of what the cases have at their edges
)
# A kernel of the step is told of a fixed variance, whichever it is, by the same table.
VARIANCES = "fixed_large or fixed_small_log"
DIFFERS = (
    f"interpreted or ddpm and {DDPM} and not ({VARIANCES}) or not ddpm and not ({DRAWN}) and {CONTRACTS} and "
    f"(graph_attention or knowledge_attention or minus_infinity or {MASKED})"
)


@pytest.mark.interpreter
def test_what_differs_for_a_kernel(interpret):
    """Of all ops in one process: to start one takes seconds."""
    interpret(*FILES, *FILES_OF_DDPM, "tests/kernels/interpreted", "-k", DIFFERS)


@pytest.mark.slow  # minutes for masked attention: a program of a kernel takes milliseconds
@pytest.mark.parametrize("op", OPS)
def test_the_contracts_and_what_only_kernels_can_get_wrong(interpret, op):
    own = [f"tests/kernels/interpreted/{name}.py" for name in OPS[op]]
    interpret(*FILES, *own, "-k", f"interpreted or ({op} and {CONTRACTS})")


@pytest.mark.slow
def test_the_tests_of_the_step_and_what_only_kernels_can_get_wrong(interpret):
    own = "tests/kernels/interpreted/test_ddpm.py"
    interpret(*FILES_OF_DDPM, own, "-k", f"interpreted or ({DDPM})")
