"""The metrics of a policy server, in the format of Prometheus."""

from collections.abc import Callable, Mapping

from msr_runtime.serving._packages import prometheus_client

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
# In s, from a small network (0.1 ms) up to an adaptation with many steps (10 s).
_BUCKETS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 10)


class Metrics:
    """The metrics of one server. Safe to call from several threads."""

    def __init__(self, connections: Callable[[], int]) -> None:
        """Start at zero; `connections` returns the number of open connections."""
        # prometheus_client's default registry is global: two servers in one process would clash in it
        self._registry = registry = prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter(
            "msr_requests",
            "Requests by outcome: ok, refused (wrong input), stopped (an adaptation that took too long, or "
            "whose client or server ended), failed (server error) or unread (client too slow).",
            ("model", "kind", "outcome"),
            registry=registry,
        )
        self._seconds = prometheus_client.Histogram(
            "msr_request_seconds",
            "Seconds from the last byte received of a request to the last byte of the reply handed to the system.",
            ("model", "kind"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._adaptations = prometheus_client.Counter(
            "msr_adaptations",
            "Adaptations by outcome: accepted (the adapted weights act) or refused (the earlier weights act).",
            ("model", "outcome"),
            registry=registry,
        )
        self._errors = prometheus_client.Summary(
            "msr_error",
            "Error on new support samples before they are learned from, one per adaptation: mean squared error on "
            "normalized outputs, or share of wrong labels. answer is adapted (the acting network), v0 (no adaptation), "
            "mean (the running mean of y) or last (the y before).",
            ("model", "answer"),
            registry=registry,
        )
        self._strange = prometheus_client.Counter(
            "msr_adaptations_outside_family",
            "Adaptations whose samples look like no task of meta-training (rule recursive).",
            ("model",),
            registry=registry,
        )
        self._outside = prometheus_client.Counter(
            "msr_samples_outside",
            "Observations and support samples with a value outside the bounds of its field; field is the side and the "
            "name of the field, for example x.goal.",
            ("model", "field"),
            registry=registry,
        )
        self._handshakes = prometheus_client.Counter(
            "msr_handshakes_dropped",
            "Connections that were ended before they were admitted, because too many were at their opening request.",
            registry=registry,
        )
        open_now = prometheus_client.Gauge("msr_connections", "Open connections.", registry=registry)
        open_now.set_function(connections)

    def request(self, model: str, kind: str, outcome: str, seconds: float) -> None:
        """Count one request and its duration in s."""
        self._requests.labels(model, kind, outcome).inc()
        self._seconds.labels(model, kind).observe(seconds)

    def adaptation(self, model: str, *, accepted: bool, inside: bool = True) -> None:
        """Count one adaptation; `inside` says whether its task may be one of the family."""
        self._adaptations.labels(model, "accepted" if accepted else "refused").inc()
        if not inside:
            self._strange.labels(model).inc()

    def errors(self, model: str, errors: Mapping[str, float]) -> None:
        """Take in the errors on new support samples, by who answered."""
        for answer, error in errors.items():
            self._errors.labels(model, answer).observe(error)

    def outside(self, model: str, counts: Mapping[str, int]) -> None:
        """Count samples with a value outside the bounds of its field, by side and field."""
        for field, samples in counts.items():
            self._outside.labels(model, field).inc(samples)

    def handshake_dropped(self) -> None:
        """Count one connection that was ended before it was admitted."""
        self._handshakes.inc()

    def text(self) -> str:
        """Return all metrics in Prometheus's text format."""
        return prometheus_client.generate_latest(self._registry).decode()
