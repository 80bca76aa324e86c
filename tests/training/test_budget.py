from __future__ import annotations

import pytest

from robustmdiff.training.budget import budget
from robustmdiff.training.config import LoopConfig


def of(n: int, **settings):
    made = budget(n, LoopConfig(**settings))
    return made, {note.topic: note for note in made.notes}


def test_what_is_given_is_obeyed_and_weakness_is_said():
    made, notes = of(24, batch_size=64, epochs=20)
    assert (made.batch_size, made.epoch_steps, made.epochs, made.steps) == (64, 1, 20, 20)
    assert set(notes) == {"steps"}
    assert notes["steps"].n == 20
    assert "20 steps in all (20 epochs of 1), as asked" in notes["steps"].sentence


def test_enough_patients_have_the_usual_numbers_and_nothing_to_say():
    made, notes = of(1800)
    assert (made.batch_size, made.epoch_steps, made.epochs) == (64, 28, 20)
    assert not notes


@pytest.mark.parametrize(
    ("n", "batch_size", "epoch_steps"), [(1, 8, 1), (24, 8, 3), (60, 8, 8), (200, 25, 8), (512, 64, 8)]
)
def test_few_patients_have_smaller_batches_and_more_epochs(n, batch_size, epoch_steps):
    made, notes = of(n)
    assert (made.batch_size, made.epoch_steps) == (batch_size, epoch_steps)
    assert 300 <= made.steps < 300 + epoch_steps
    assert ("batch_size" in notes) == (n < 512)
    assert notes["epochs"].n == made.steps
    if n < 512:
        told = f"A step sees {min(n, batch_size)} patients instead of 64, because only {n} train."
        assert notes["batch_size"].sentence == told


def test_one_given_number_is_kept_while_the_other_adapts():
    assert of(24, batch_size=24)[0].epochs == 300
    made, notes = of(24, epochs=7)
    assert (made.batch_size, made.epochs, made.steps) == (8, 7, 21)
    assert set(notes) == {"batch_size", "steps"}


def test_other_things_than_patients_are_named():
    assert budget(30, LoopConfig(), "images").notes[0].sentence.startswith("A step sees 8 images instead")
