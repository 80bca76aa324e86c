"""What the ledger complains about; the compiling itself is `make ledger`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from tools.ledger.__main__ import LEDGER
from tools.ledger.lines import Line, Resources, compare


def complaints(**changes: int) -> list[str]:
    known = Resources(registers=100, stack=0, shared=65536, cp_async=16, mma=64, wgmma=8)
    entry = {"compiler": "triton 3.9.0", "resources": asdict(known)}
    line = Line("attention: _forward", "sm_90", "triton 3.9.0", replace(known, **changes), True, True)
    return compare([line], {line.name: {line.arch: entry}}, whole=True)


def test_what_has_not_changed_passes():
    assert complaints() == []
    assert complaints(registers=104) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stack": 8}, "spills 8 bytes"),
        ({"cp_async": 0}, "lost its pipeline"),
        ({"mma": 0, "wgmma": 0}, "lost its tensor cores"),
        ({"wgmma": 0}, "has no wgmma, had 8"),
        ({"registers": 120}, "takes 120 registers, was 100"),
        ({"shared": 98304}, "takes 98304 bytes"),
        ({"shared": 32768}, "fetches less far ahead"),
        ({"shared": 2**20}, "sm_90 has 232448"),
    ],
    ids=str,
)
def test_a_regression_is_named(changes, says):
    found = complaints(**changes)
    assert any(says in complaint for complaint in found), found


def test_lines_that_come_or_go_are_named():
    known = json.loads(LEDGER.read_text(encoding="utf-8"))
    name, archs = next(iter(known.items()))
    arch, entry = next(iter(archs.items()))
    line = Line("new", arch, entry["compiler"], Resources(**entry["resources"]))
    found = compare([line], {name: {arch: entry}}, whole=True)
    assert len(found) == 2
    assert f"new {arch}: is not in the ledger" in found[0]
    assert "nothing compiles it any more" in found[1]


def test_the_shipped_ledger_holds_no_spill():
    known = json.loads(LEDGER.read_text(encoding="utf-8"))
    assert not [name for name, archs in known.items() for e in archs.values() if e["resources"]["stack"] > 0]
