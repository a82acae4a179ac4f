"""What a policy server counts, for Prometheus."""

from collections.abc import Callable

from msr_runtime._serving import prometheus_client

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
_BUCKETS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 10)


class Metrics:
    """The figures of one server, in a registry of its own; safe to call from several threads."""

    def __init__(self, connections: Callable[[], int]) -> None:
        """Count from zero; `connections` tells how many are open."""
        self._registry = registry = prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter(
            "msr_requests",
            "Requests by what came of them: ok, refused, failed or unread.",
            ("model", "kind", "outcome"),
            registry=registry,
        )
        self._seconds = prometheus_client.Histogram(
            "msr_request_seconds",
            "From a request's last byte to its reply's last byte handed to the system.",
            ("model", "kind"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._adaptations = prometheus_client.Counter(
            "msr_adaptations",
            "Adaptations that act (accepted) or do not (refused).",
            ("model", "outcome"),
            registry=registry,
        )
        open_now = prometheus_client.Gauge("msr_connections", "Connections open now.", registry=registry)
        open_now.set_function(connections)

    def request(self, model: str, kind: str, outcome: str, seconds: float) -> None:
        """Count one request and how long it took."""
        self._requests.labels(model, kind, outcome).inc()
        self._seconds.labels(model, kind).observe(seconds)

    def adaptation(self, model: str, *, accepted: bool) -> None:
        """Count one adaptation."""
        self._adaptations.labels(model, "accepted" if accepted else "refused").inc()

    def text(self) -> str:
        """All figures in Prometheus's text format."""
        return prometheus_client.generate_latest(self._registry).decode()
