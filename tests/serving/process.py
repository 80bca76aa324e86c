"""A server of the made model as a process of its own: AUDIT, the seconds of a call and of a request, the
patients of a call, a TOKEN that is asked for, or nothing, and what is told beside: "run" for pixels and
words, "generator" for what is missing, both, or nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from robustmdiff.serving.app import make_app
from robustmdiff.serving.audit import Audit
from robustmdiff.serving.door import Door
from robustmdiff.serving.limits import Limits
from robustmdiff.serving.metrics import Metrics
from robustmdiff.serving.serve import run
from robustmdiff.serving.served import Served
from robustmdiff.serving.tokens import Tokens
from tests.serving.conftest import Generate, artefact, attribute, engine


def main(audit: str, call: str, seconds: str, patients: str, token: str, beside: str) -> None:
    limits = Limits(seconds=float(seconds), idle=1, patients=int(patients))
    tokens = Tokens({"ward-3": token}) if token else None

    def slow(arrays):
        time.sleep(float(call))
        return engine(arrays)

    metrics = Metrics()
    door = Door("ward", limits, metrics, tokens, Audit(Path(audit)))
    explaining = attribute if "run" in beside else None
    making = Generate() if "generator" in beside else None
    served = Served(artefact(slow), "a" * 64, limits, metrics.batch.observe, explaining, making)
    run(make_app([served], door), "127.0.0.1", 0, limits)


if __name__ == "__main__":
    main(*sys.argv[1:])
