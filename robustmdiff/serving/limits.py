"""How much one request, and all of them together, may ask for; and how a request is refused."""

from __future__ import annotations

from dataclasses import dataclass

MiB = 2**20


@dataclass(frozen=True)
class Limits:
    """body      bytes of a request
    held      bytes of all requests that are being read or answered
    text      characters of a text
    patients  of one request, and of one call of the engine
    draws     of one request that brings its own noise
    requests  that are prepared or answered at a time
    waiting   patients in the queue of a model
    attributions  patients whose pixels and words are asked for at a time
    generations  patients whose missing modalities are asked for at a time
    made      draws of one modality that a generator makes for one request
    seconds   for the body of a request to come, and again for its answer
    idle      seconds that a connection may be silent, and that the head of its first request may take
    wait      seconds that a patient waits for others, so that the engine is called once
    """

    body: int = 32 * MiB
    held: int = 512 * MiB
    text: int = 1_000_000
    patients: int = 64
    draws: int = 1024
    requests: int = 256
    waiting: int = 256
    attributions: int = 8
    generations: int = 8
    made: int = 16
    seconds: float = 30.0
    idle: int = 10
    wait: float = 0.002


class Refused(Exception):
    """A request that is not answered: an HTTP status, and one sentence that quotes nothing of a patient and
    names nothing of this machine."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence

    @property
    def headers(self) -> dict[str, str]:
        if self.status == 503:
            return {"Retry-After": "1"}
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {}
