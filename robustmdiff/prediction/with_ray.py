"""Batches shared among the machines of a Ray cluster, by Ray Data."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import Any

from robustmdiff.prediction.answering import Answered, Answering
from robustmdiff.prediction.processes import Batch


def with_ray(answering: Answering, batches: Iterable[Batch], workers: int) -> Generator[tuple[int, Answered]]:
    """As `in_processes`, on the cluster that `RAY_ADDRESS` names or that runs here, else on one that is
    started for it. A worker takes a CPU, and a GPU where the answers are computed on one.

    The batches lie in Ray's object store, where pictures are paths: every machine must see the same files.
    What a machine was at when it was lost is computed again by the others.
    """
    import pyarrow as pa
    import ray
    import ray.data

    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        asked: Any = [
            ray.put(pa.table({"number": [number], "patients": [pickle.dumps(few)]}))
            for number, few in batches
        ]
        if not asked:
            return
        answered: Any = ray.data.from_arrow_refs(asked).map_batches(
            RayWorker,
            fn_constructor_args=(ray.put(answering), os.getcwd()),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=int(answering.predictor.device.type == "cuda"),
        )
        for table in answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in table.to_pylist():
                yield row["number"], pickle.loads(row["answered"])
    finally:
        if started:
            ray.shutdown()


class RayWorker:
    """Holds the model in a process of Ray's."""

    def __init__(self, answering: Any, folder: str) -> None:
        import ray

        with suppress(OSError):  # relative paths are meant from where the command was given
            os.chdir(folder)
        self.answering: Answering = ray.get(answering)

    def __call__(self, table: Any) -> Any:
        """A table of `number`, `answered` for one of `number`, `patients`."""
        import pyarrow as pa

        asked = table.to_pylist()
        answered = [pickle.dumps(self.answering(pickle.loads(row["patients"]))) for row in asked]
        return pa.table({"number": [row["number"] for row in asked], "answered": answered})
