"""What Prometheus is told: counts and times by route; nothing that a client names, nothing of a patient."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        labels = ["route", "code"]
        self.requests = Counter("robustmdiff_requests", "Requests answered.", labels, registry=own)
        self.seconds = Histogram("robustmdiff_request_seconds", "Until the answer.", ["route"], registry=own)
        self.batch = Histogram(
            "robustmdiff_batch_patients", "Patients of a call of the engine.", buckets=SIZES, registry=own
        )
        self.waiting = Gauge("robustmdiff_waiting_patients", "Patients in the queues.", registry=own)

    def text(self) -> bytes:
        return generate_latest(self._registry)
