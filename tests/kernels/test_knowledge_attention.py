from __future__ import annotations


def test_the_contracts_hold(contracts):
    contracts("knowledge_attention")


def test_what_only_kernels_can_get_wrong(interpret):
    interpret("tests/kernels/interpreted/test_knowledge_attention.py")


def test_the_interpreter_cannot_compute_bfloat16_yet(interpret):
    interpret("tests/kernels/interpreted/test_bfloat16.py")
