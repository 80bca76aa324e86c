"""The benchmark suite tells the truth: who is wrong gets no time, what is unsteady says so."""

from __future__ import annotations

import json
import time

import pytest
import torch

from benchmarks import comparison
from benchmarks.candidates import BACKWARD, FORWARD, TRAINING, Candidate, Workload, WrongResult
from benchmarks.limits import BYTES, Limit, bandwidth, per_round
from benchmarks.measure import measure, movement, peak_mib, ratio
from robustmdiff.testing import draw


def toy(rows: int = 64) -> Workload:
    """x exp(y), a stand-in for an op."""
    tensors = {"x": draw(rows, 8, seed=1).float(), "y": draw(rows, 8, seed=2).float()}
    need = {part: {BYTES: 12.0 * rows * 8} for part in (FORWARD, TRAINING, BACKWARD)}
    return Workload("toy", "a toy", tensors, lambda x, y: x * y.exp(), need)


def candidate(name: str, run, **settings) -> tuple[str, object]:
    return name, lambda workload: Candidate(name, run, **settings)


RIGHT = candidate("right", lambda _, x, y: y.exp() * x, ours=True)
PEER = candidate("peer", lambda e, x, y: x * e, prepare=lambda x, y: y.exp())


def compared(*makers, **settings) -> list[comparison.Row]:
    workload = toy()
    limits = bandwidth(workload.tensors["x"])
    rows, _ = comparison.compare(workload, dict(makers), toy(2), limits, seconds=0, **settings)
    return rows


def test_a_wrong_result_gets_no_time():
    with pytest.raises(WrongResult, match="wrong: out of toy, a toy, is off by"):
        compared(RIGHT, candidate("wrong", lambda _, x, y: x * y.exp() * 1.001, ours=True))


def test_a_wrong_gradient_gets_no_time():
    with pytest.raises(WrongResult, match="wrong: dy of toy"):
        compared(RIGHT, candidate("wrong", lambda _, x, y: x * y.detach().exp() + 0 * y, ours=True))


def test_nan_is_wrong():
    with pytest.raises(WrongResult):
        compared(candidate("nan", lambda _, x, y: x * y.exp() * torch.nan, ours=True))


def test_a_wrong_peer_is_listed_and_the_others_are_timed():
    rows = compared(RIGHT, candidate("wrong", lambda _, x, y: x * y.exp() * 1.001))
    assert {row["candidate"] for row in rows if "ms" in row} == {"right"}
    reasons = {row["reason"] for row in rows if row["candidate"] == "wrong"}
    assert all(reason.startswith("WrongResult: wrong: out of toy, a toy, is off by") for reason in reasons)


def test_who_cannot_run_is_listed_with_the_reason():
    def without_backward(_, x, y):
        if x.requires_grad:
            raise NotImplementedError("no backward here. And more words")
        return x * y.exp()

    def missing(workload):
        raise ImportError("No module named 'elsewhere'")

    rows = compared(RIGHT, candidate("half", without_backward), ("missing", missing))
    found = {(row["candidate"], row["pass"]): row for row in rows}
    assert found["half", FORWARD]["ms"] > 0
    assert found["half", TRAINING]["verdict"] == "cannot run"
    assert found["half", BACKWARD]["reason"] == "NotImplementedError: no backward here"
    assert found["missing", FORWARD]["reason"] == "ImportError: No module named 'elsewhere'"
    assert "half" in comparison.table(rows)


def test_who_can_do_only_small_inputs_is_listed_too():
    def small(_, x, y):
        if len(x) > 2 and x.requires_grad:
            raise RuntimeError("too large")
        return x * y.exp()

    rows = compared(RIGHT, candidate("small", small))
    found = {row["pass"]: row for row in rows if row["candidate"] == "small"}
    assert found[FORWARD]["ms"] > 0
    assert found[TRAINING]["reason"] == found[BACKWARD]["reason"] == "RuntimeError: too large"


def test_a_row_says_everything(tmp_path):
    rows = compared(RIGHT, PEER)
    file = tmp_path / "results" / "rows.jsonl"
    where = {"machine": "a machine", "device": "cpu", "commit": "abc", "date": "2000-01-01 00:00"}
    comparison.append(file, rows, where)
    comparison.append(file, rows, where)
    read = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(read) == 2 * len(rows) == 2 * 2 * 3
    for row in read:
        assert row["op"] == "toy"
        assert row["dtype"] == "float32"
        assert row["commit"] == "abc"
        assert row["verdict"] in ("measured", "inconclusive")
        low, high = row["times_limit"][1:]
        assert low <= row["times_limit"][0] <= high
        assert row["limit"] == BYTES
        assert row["limit_ms"] > 0
        assert row["rounds"] >= 5
    ours = next(row for row in read if row["ours"])
    assert list(ours["against"]) == ["peer"]
    peer = next(row for row in read if row["candidate"] == "peer" and row["pass"] == FORWARD)
    assert 0 < peer["prepare_ms"] <= peer["ms"] * 2


def test_an_unsteady_limit_makes_the_run_inconclusive():
    workload, limit = toy(), Limit(BYTES, "copy", 1.0, lambda: None)
    one = Candidate("one", lambda _, x, y: x, ours=True)

    def verdict(spent: list[float]) -> str:
        samples = {"one": {FORWARD: [1.0] * 8}, "copy": {BYTES: spent}}
        (row,) = comparison.rows_of(workload, FORWARD, [one], [limit], samples)
        return row["verdict"]

    assert verdict([1, 1.02, 1.05, 1, 1, 1.03, 1, 1.1]) == "measured"
    assert verdict([1, 1.3, 1, 1.3, 1, 1.3, 1, 1.3]) == "inconclusive"
    assert verdict([1, 1, 1, 1, 1, 1, 1, 9]) == "measured"  # one disturbed round says nothing
    assert movement([1.0, 1.3] * 4) > comparison.STEADY


def test_the_ratio_is_taken_within_each_round():
    machine = [1.0, 5.0, 1.0, 3.0, 2.0, 8.0]  # slows down and recovers
    middle, low, high = ratio([2 * s for s in machine], machine)
    assert middle == low == high == 2


def test_the_slowest_kind_of_limit_binds():
    fast, slow, sums = (
        Limit(kind, name, 1.0, lambda: None) for kind, name in (("b", "f"), ("b", "s"), ("m", "m"))
    )
    samples = {"f": {"b": [1.0, 3.0]}, "s": {"b": [2.0, 2.0]}, "m": {"m": [0.5, 0.5]}}
    kind, limit = per_round([fast, slow, sums], samples, {"b": 10.0, "m": 1.0})
    assert kind == "b"
    assert limit == [10.0, 20.0]


def test_every_round_has_everybody_in_turning_order():
    order = []

    def turn(name):
        def run(calls):
            order.append(name)
            time.sleep(3e-3)
            return {"call": 3e-3}

        return run

    samples = measure({name: turn(name) for name in "abc"}, 0, rounds=(3, 9))
    assert "".join(order[6:]) == "aabbccbbccaaccaabb"  # each turn after a call that is not timed
    assert {name: len(parts["call"]) for name, parts in samples.items()} == dict.fromkeys("abc", 3)


def test_the_very_slow_take_part_in_fewer_rounds():
    def turn(calls):
        return {"call": 0.2}

    samples = measure({"slow": turn, "fast": lambda calls: {"call": 0.02}}, 0, rounds=(6, 9))
    assert [len(samples[name]["call"]) for name in ("slow", "fast")] == [3, 6]
    assert ratio(samples["slow"]["call"], samples["fast"]["call"])[0] == pytest.approx(10)


def test_memory_counts_what_a_call_holds():
    found = peak_mib(lambda: torch.ones(2**24).sum(), "cpu")  # 64 MiB
    if found is None:
        pytest.skip("this system does not tell")
    assert 60 < found < 90
