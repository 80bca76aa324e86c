"""Answers about all patients of a folder, in a Parquet file; a kill loses the batches under way, no more."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.patient import Patient
from robustmdiff.prediction.answering import Answering
from robustmdiff.prediction.parts import Parts
from robustmdiff.prediction.processes import Batch, in_processes
from robustmdiff.prediction.question import question
from robustmdiff.prediction.with_ray import with_ray
from robustmdiff.predictor import BATCH, Predictor
from robustmdiff.refusal import Refusal

ENGINES = {"processes": in_processes, "ray": with_ray}


def predict_to_parquet(
    predictor: Predictor,
    out: str | Path,
    data: str | Path | None = None,
    *,
    ids: Sequence[str] | None = None,
    draws: int | None = None,
    seed: int = 0,
    workers: int = 1,
    engine: str = "processes",
    bad: BadRows | None = None,
    batch: int = BATCH,
) -> int:
    """Writes the answers about patients (`data` and `ids` as `Predictor.patients` takes them) to a Parquet
    file, whole or not at all, and returns its number of rows: one a patient and class, in the order of the
    patients, of `answering.COLUMNS`, with nulls for what there is not.

    Patients are read one by one and answered in batches. Finished batches lie in `out` + ".parts" until the
    last one is; the same call goes on after a kill, and the file is the same byte for byte, however often it
    was killed and whatever the number of workers.

    workers  processes ("processes") or Ray's workers ("ray"), of one thread each.
    bad      notes the rows and the pictures that cannot be read. Rows stop it before it begins, a picture
             when its batch is reached, unless `bad` is to skip them.

    Raises DataError for data that cannot be read, that says other things than the model was trained on, or
    where the parts answer another question; Refusal for an engine that is not installed.
    """
    out, bad = Path(out), bad or BadRows()
    if engine not in ENGINES:
        raise Refusal(f"engine is {engine!r}, expected one of {', '.join(ENGINES)}")
    _check_installed("pyarrow", "tables", str(out))
    if engine == "ray":
        _check_installed("ray", "ray", "engine 'ray'")
    read = _reader(predictor, data, ids, bad)
    asked = question(predictor, read(bad), draws=draws, seed=seed, batch=batch)
    records, parts = asked["records"], Parts(out, asked)
    finished = parts.finished(complete=not bad.skip)
    numbers = range(-(-records // batch))
    patients = {number: min(batch, records - number * batch) for number in numbers}
    rest = (each for each in _batches(read(BadRows(skip=True)), batch) if each[0] not in finished)

    from tqdm.auto import tqdm

    done = sum(patients[number] for number in finished)
    answering = Answering(predictor, draws, seed)
    with (
        tqdm(total=records, initial=done, desc="patients", disable=None) as bar,
        closing(ENGINES[engine](answering, rest, workers)) as answers,
    ):
        for number, answered in answers:
            for sentence in answered.warned:
                warnings.warn(sentence, stacklevel=2)
            if not bad.skip:
                bad.problems += answered.left_out
                bad.check()
            parts.keep(number, answered)
            bar.update(patients[number])
    rows, left_out = parts.join(len(numbers))
    bad.problems += left_out
    return rows


def _check_installed(package: str, extra: str, what: str) -> None:
    if find_spec(package) is None:
        raise Refusal(f"{what}: needs {package}, expected it installed (pip install 'robustmdiff[{extra}]')")


def _reader(
    predictor: Predictor, data: str | Path | None, ids: Sequence[str] | None, bad: BadRows
) -> Callable[[BadRows], Iterable[Patient]]:
    """Gives the patients each time it is called; those of a whole folder without holding them."""
    if data is not None and ids is None:
        return lambda bad: predictor.stream(data, bad=bad)
    patients = predictor.patients(data, ids=ids, bad=bad)
    return lambda bad: patients


def _batches(patients: Iterable[Patient], batch: int) -> Iterator[Batch]:
    patients, number = iter(patients), 0
    while few := list(islice(patients, batch)):
        yield number, few
        number += 1
