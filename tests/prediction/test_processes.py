"""Processes that share batches: how far they read ahead, and how they end."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from contextlib import closing

import pytest

from robustmdiff.prediction.answering import Answering
from robustmdiff.prediction.processes import in_processes, serve, start_method
from robustmdiff.refusal import Refusal

BATCH = 4


@pytest.fixture(scope="module")
def batches(predictor, data) -> list:
    patients = predictor.patients(data)
    return [(number, patients[BATCH * number : BATCH * (number + 1)]) for number in range(10)]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_are_read_no_further_ahead_than_needed(predictor, batches, workers):
    read = 0

    def reading():
        nonlocal read
        for batch in batches:
            read += 1
            yield batch

    with closing(in_processes(Answering(predictor), reading(), workers)) as answers:
        for done, _ in enumerate(answers):
            assert read - done <= (workers + 1 if workers > 1 else 1)
    assert read == len(batches)


def test_a_killed_process_is_a_sentence(predictor, batches):
    def killing():
        yield batches[0]
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)
        yield from batches[1:]

    with pytest.raises(Refusal, match="a worker was killed, expected memory for all of them"):
        list(in_processes(Answering(predictor), killing(), 2))


def test_a_process_ends_with_its_parent(predictor, batches):
    """Also where the parent was killed, and all that is left of it is that its end is closed."""
    answering = Answering(predictor)
    ours, theirs = multiprocessing.Pipe()
    process = start_method(answering).Process(target=serve, args=(theirs,))
    process.start()
    theirs.close()
    ours.send_bytes(pickle.dumps(answering))
    ours.send(batches[0][1])
    assert ours.recv() == answering(batches[0][1])
    ours.close()
    process.join(60)
    assert process.exitcode == 0


def test_an_error_of_ours_shows_itself_and_where(predictor):
    with pytest.raises(TypeError, match="not list") as caught:
        list(in_processes(Answering(predictor), [(0, ["no patient"])], 2))
    assert "answering.py" in caught.value.__notes__[0]
