"""How `robustmdiff serve` bears load: what is offered, what is answered, and how long it takes.

    python tools/serve_load.py ARTEFACT                       a Markdown table, in about a minute
    python tools/serve_load.py ARTEFACT --rates 10 100 --seconds 10

A server of its own on loopback is asked /predict for one made patient at random times (Poisson), whether or
not it has answered what came before. A time counts from when a request was due, so that waiting is not
hidden. At last the server gets SIGTERM while it is asked: whatever it accepted, by its audit record, has to
be answered.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import multiprocessing
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from robustmdiff.data.modality import Modality  # noqa: E402
from robustmdiff.data.task import Task  # noqa: E402
from robustmdiff.serving.limits import Limits  # noqa: E402

RATES = (20, 50, 100, 200, 400)  # requests a second
HOST = "127.0.0.1"
TURNED_AWAY = (ConnectionError, asyncio.IncompleteReadError)


@dataclass
class Load:
    """ms       of each answer with 200, from when its request was due
    codes    of all answers
    away     requests that no server took
    seconds  until the last answer
    """

    ms: list[float] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    away: int = 0
    seconds: float = 0.0


class Client:
    """Keeps the connections that are not in use."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """POST where there is a body. Raises what is in TURNED_AWAY."""
        held = self._held() or await asyncio.open_connection(HOST, self.port)
        reader, writer = held
        what = f"POST {path}" if body else f"GET {path}"
        head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(f"{what} HTTP/1.1\r\nHost: {HOST}\r\n{head}".encode() + body)
        said = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        (length,) = re.findall(r"content-length: (\d+)", said)
        content = await reader.readexactly(int(length))
        if "connection: close" in said:
            writer.close()
        else:
            self._free.append(held)
        return int(said.split()[1]), content

    def _held(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """One that the server has not closed, as it does with those that are silent."""
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


async def offer(client: Client, body: bytes, rate: float, seconds: float, seed: int = 0) -> Load:
    """Ask /predict `rate` times a second, at random times that the seed decides."""
    load = Load()
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    began = time.perf_counter()

    async def ask(due: float) -> None:
        try:
            code, _ = await client.ask("/predict", body)
        except TURNED_AWAY:
            load.away += 1
            return
        load.codes[code] += 1
        if code == 200:
            load.ms.append(1e3 * (time.perf_counter() - due))

    async with asyncio.TaskGroup() as group:
        for due in began + np.cumsum(gaps):
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            group.create_task(ask(float(due)))
    load.seconds = time.perf_counter() - began
    return load


def made_patient(task: Task) -> dict[str, Any]:
    """Of whatever a single file, a sentence and usual values can say."""
    made = {each.name: MADE[each.kind](each) for each in task.modalities}
    return {name: x for name, x in made.items() if x is not None}


def _image(modality: Modality) -> str | None:
    from PIL import Image

    channels, height, width = modality.shape or (1, 1, 1)
    if channels != 1:
        return None
    grey = np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _values(modality: Modality) -> dict[str, Any]:
    return {
        each.name: each.categories[0] if each.categories else sum(each.reference or (60, 60)) / 2
        for each in modality.fields
    }


MADE: Mapping[str, Any] = {"image": _image, "text": lambda modality: "Cough and fever.", "values": _values}


def serve(folder: Path, limits: Limits, port: int, audit: Path) -> None:
    """In a process of its own."""
    from robustmdiff.serving.app import make_app
    from robustmdiff.serving.audit import Audit
    from robustmdiff.serving.door import Door
    from robustmdiff.serving.metrics import Metrics
    from robustmdiff.serving.serve import run
    from robustmdiff.serving.served import Served

    metrics = Metrics()
    served = Served.load(folder, 1, limits, metrics.batch.observe)
    door = Door("load", limits, metrics, None, Audit(audit))
    run(make_app([served], door), HOST, port, limits)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


async def measure(folder: Path, limits: Limits, rates: list[int], seconds: float, audit: Path) -> None:
    """Prints a row for each rate, and one for SIGTERM at the middle one."""
    from robustmdiff.runtime.manifest import Manifest

    body = json.dumps(made_patient(Manifest.load(folder).task)).encode()
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(folder, limits, port, audit), daemon=True
    )
    process.start()
    client = Client(port)
    while True:
        try:
            await client.ask("/health")
            break
        except TURNED_AWAY:
            await asyncio.sleep(0.2)
    what = "on" if limits.patients > 1 else "off"
    answers: Counter[int] = Counter()
    for rate in rates:
        before = await calls(client)
        load = await offer(client, body, rate, seconds)
        patients, times = (after - other for after, other in zip(await calls(client), before, strict=True))
        p50, p99 = np.percentile(load.ms, (50, 99))
        row = (what, rate, len(load.ms) / load.seconds, p50, p99, load.codes[503])
        print("|", *(f"{x:.0f} |" if isinstance(x, float) else f"{x} |" for x in row), end=" ")
        print(f"{patients / times:.1f} |", flush=True)
        answers += load.codes
    pid = process.pid
    assert pid is not None
    asyncio.get_running_loop().call_later(seconds / 2, os.kill, pid, signal.SIGTERM)
    load = await offer(client, body, rates[len(rates) // 2], seconds)
    answers += load.codes
    client.close()
    process.join()
    accepted = Counter(json.loads(line)["outcome"] for line in audit.read_text(encoding="utf-8").splitlines())
    print(
        f"SIGTERM at {rates[len(rates) // 2]} a second: {sum(accepted.values())} accepted in all, "
        f"{(accepted - answers).total()} of them lost; {load.away} came later and were turned away; "
        f"exit status {process.exitcode}.\n"
    )


async def calls(client: Client) -> tuple[float, float]:
    """Patients whom the engine was asked, and how often it was asked."""
    _, text = await client.ask("/metrics")
    found = dict(re.findall(r"robustmdiff_batch_patients_(sum|count) (\S+)", text.decode()))
    return float(found["sum"]), float(found["count"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("artefact", type=Path)
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="requests a second")
    parser.add_argument("--seconds", type=float, default=4, help="of each rate")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before it began.\n")
    print("| batching | offered, 1/s | answered, 1/s | p50, ms | p99, ms | 503 | patients a call |")
    print("|---|---|---|---|---|---|---|")
    for limits in (Limits(), Limits(patients=1, wait=0)):
        with tempfile.TemporaryDirectory() as folder:
            audit = Path(folder) / "audit.jsonl"
            asyncio.run(measure(given.artefact, limits, list(given.rates), given.seconds, audit))


if __name__ == "__main__":
    main()
