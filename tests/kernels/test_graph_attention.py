from __future__ import annotations


def test_the_contracts_hold_and_what_only_kernels_can_get_wrong(contracts):
    contracts("graph_attention", "test_graph_attention")
