"""What a page of metrics says, read as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from service_utils.integrations.prometheus import Metrics

__all__ = ["Page", "check_openmetrics", "listening", "page_of"]


class Page:
    """The samples of a page, each by its name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.types = {each.name: each.type for each in text_string_to_metric_families(text)}
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """One sample, all of its labels given."""
        return self.samples[name, frozenset(labels.items())]

    def get(self, name: str, **labels: str) -> float | None:
        """The same, or None where there is none."""
        return self.samples.get((name, frozenset(labels.items())))

    def of(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of a name that are not 0, by the values of their labels in the labels' order."""
        return {
            tuple(value for _, value in sorted(labels)): number
            for (each, labels), number in self.samples.items()
            if each == name and number
        }

    def names(self) -> set[str]:
        """All names of samples."""
        return {name for name, _ in self.samples}


def page_of(metrics: Metrics) -> Page:
    """What the metrics say now."""
    return Page(metrics.exposition()[0].decode())


@contextmanager
def listening(metrics: Metrics) -> Iterator[Callable[[], Page]]:
    """Counts in the block; gives what shows the page."""
    metrics.listen()
    try:
        yield lambda: page_of(metrics)
    finally:
        metrics.stop()


def check_openmetrics(body: bytes) -> None:
    """Whether it is valid OpenMetrics."""
    list(openmetrics_parser.text_string_to_metric_families(body.decode()))
