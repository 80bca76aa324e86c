from __future__ import annotations


def test_the_tests_of_the_step_and_what_only_kernels_can_get_wrong(interpret):
    interpret(
        "tests/ops/ddpm/test_step.py",
        "tests/ops/ddpm/test_noise.py",
        "tests/kernels/interpreted/test_ddpm.py",
        "-k",
        "interpreted or (triton and not bfloat16 and not transforms)",
    )
