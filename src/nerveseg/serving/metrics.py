"""What `/metrics` shows."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

_PREFIX = "nerveseg_predictor"
_BUCKETS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6)  # seconds


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            f"{_PREFIX}_requests", "Requests to /v1/segment by status", ["status"], registry=self.registry
        )
        self.seconds = Histogram(
            f"{_PREFIX}_request_seconds",
            "From the head of a request to /v1/segment to the end of its answer",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.queue = Gauge(
            f"{_PREFIX}_queue", "Requests to /v1/segment that arrive, wait or are scored", registry=self.registry
        )
        self.model = Gauge(f"{_PREFIX}_model_info", "The version that answers", ["version"], registry=self.registry)
        self.loads = Counter(f"{_PREFIX}_loads", "Versions that were loaded", registry=self.registry)
        self.failed_loads = Counter(
            f"{_PREFIX}_failed_loads",
            "Looks at the delivery that failed: the storage, the hashes or the network",
            registry=self.registry,
        )
