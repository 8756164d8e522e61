"""What `/metrics` shows."""

from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.metrics import latency, requests

_PREFIX = "nerveseg_predictor"
_BUCKETS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6)  # seconds


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.queue = Gauge(
            f"{_PREFIX}_queue", "Requests to /v1/segment that arrive, wait or are scored", registry=self.registry
        )
        self.model = Gauge(f"{_PREFIX}_model_info", "The version that answers", ["version"], registry=self.registry)
        self.loads = Counter(f"{_PREFIX}_loads", "Versions that were loaded", registry=self.registry)
        self.failed_loads = Counter(
            f"{_PREFIX}_failed_loads",
            "Looks at the delivery that failed: the storage, the hashes, the signature or the network",
            registry=self.registry,
        )

    def count(self, app: FastAPI, path: str) -> None:
        """Counts the requests to `path` by status, and their seconds, as the outermost middleware of `app` so far."""
        labels: Any = {"should_include_handler": False, "should_include_method": False, "registry": self.registry}
        Instrumentator(should_group_status_codes=False, excluded_handlers=[f"^(?!{path}$)"]).add(
            requests(f"{_PREFIX}_requests", f"Requests to {path} by status", **labels),
            latency(
                f"{_PREFIX}_request_seconds",
                f"From the head of a request to {path} to the end of its answer",
                should_include_status=False,
                buckets=_BUCKETS,
                **labels,
            ),
        ).instrument(app)
