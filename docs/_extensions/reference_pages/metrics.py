"""The table of what a policy server counts, from its own `/metrics` text."""

from prometheus_client.parser import text_string_to_metric_families

from msr_runtime.serving.metrics import Metrics

_PAGE = """\
# Metrics of the server

`msr serve` answers `GET /metrics` on its port in Prometheus's text format. A counter's samples end in `_total`; a
histogram's end in `_bucket`, `_sum` and `_count`.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
{rows}
"""


def pages() -> dict[str, str]:
    """Path below `docs/reference/` to the page's text."""
    metrics = Metrics(lambda: 0)
    metrics.request("model", "kind", "outcome", 0.0)  # a metric with labels shows nothing before it has counted
    metrics.adaptation("model", accepted=True, inside=False)
    metrics.errors("model", {"adapted": 0.0})
    rows = []
    for family in text_string_to_metric_families(metrics.text()):
        if family.name.endswith("_created"):  # the client's own note of when a metric began
            continue
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
        listed = ", ".join(f"`{label}`" for label in labels) or "none"
        rows.append(f"| `{family.name}` | {family.type} | {listed} | {family.documentation} |")
    return {"metrics.md": _PAGE.format(rows="\n".join(rows))}
