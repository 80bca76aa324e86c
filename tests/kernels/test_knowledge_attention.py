from __future__ import annotations


def test_the_contracts_hold_and_what_only_kernels_can_get_wrong(contracts):
    contracts("knowledge_attention", "test_knowledge_attention", "test_bfloat16")
