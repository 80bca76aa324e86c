from __future__ import annotations


def test_the_contracts_hold(contracts):
    contracts("graph_attention")


def test_what_only_kernels_can_get_wrong(interpret):
    interpret("tests/kernels/interpreted/test_graph_attention.py")
