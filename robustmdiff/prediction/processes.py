"""Batches shared among the processes of one machine."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from robustmdiff.data.patient import Patient
from robustmdiff.prediction.answering import Answered, Answering
from robustmdiff.refusal import Refusal

Batch = tuple[int, Sequence[Patient]]  # its number


def in_processes(
    answering: Answering, batches: Iterable[Batch], workers: int
) -> Generator[tuple[int, Answered]]:
    """Each batch answered, by its number, as they are done. One batch is read ahead. One worker is this
    process. Raises Refusal where a process was killed."""
    if workers == 1:
        for number, few in batches:
            yield number, answering(few)
        return
    context, pickled = start_method(answering), pickle.dumps(answering)
    free: list[Any] = []
    busy: dict[Any, int] = {}
    processes = []
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs,), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()  # so that its end is the end of the connection
            # As bytes: tensors on their own would go through shared memory, of which containers have little.
            with _alive():
                ours.send_bytes(pickled)
            free.append(ours)
        for number, few in batches:
            done = None
            if not free:
                done = _next(busy)
                free.append(done[0])
            connection = free.pop()
            with _alive():
                connection.send(few)
            busy[connection] = number
            if done is not None:
                yield done[1:]
        while busy:
            yield _next(busy)[1:]
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _next(busy: dict[Any, int]) -> tuple[Any, int, Answered]:
    """What is answered next: by whom, the batch, the answers."""
    connection: Any = wait(busy)[0]
    with _alive():
        said = connection.recv()
    if isinstance(said, Exception):
        raise said
    return connection, busy.pop(connection), said


@contextmanager
def _alive() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise Refusal(
            "a worker was killed, expected memory for all of them (or fewer --workers); the same command "
            "goes on with what is left"
        ) from error


def start_method(answering: Answering) -> Any:
    """How processes that share batches begin. A plain fork would copy locks that torch's threads hold; a
    server that has imported what the model is made of, and computed nothing, forks safely and at once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    parts = {type(part).__module__ for part in answering.predictor.run.model.modules()}
    context.set_forkserver_preload([__name__, *sorted(parts)])
    return context


def serve(connection: Connection) -> None:
    """A process of its own: is told the `Answering`, and then answers batches until the other end is closed,
    as it is too where the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    with suppress(EOFError, OSError):
        answering: Answering = pickle.loads(connection.recv_bytes())
        while True:
            patients = connection.recv()
            said: Answered | Exception
            try:
                said = answering(patients)
            except Exception as error:
                error.add_note(traceback.format_exc())
                said = error
            connection.send(said)
